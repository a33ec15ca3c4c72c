#include "core_emulated.h"

namespace wf {
namespace {
#include "lanes_avx2.h"
//
#include "widest_sixteen.h"
//
#include "prefetch.h"
//
#include "lut_avx2.h"
#include "lut_avx512.h"
#include "pairs_avx512.h"
#include "tile_avx512vnni.h"
//
#include "t1_decode_avx512vbmi.h"
//
#include "tile_avx512_t1.h"
//
#include "table.inl"
}  // namespace

extern const KernelTable kEmulatedAvx512VbmiTable;
const KernelTable kEmulatedAvx512VbmiTable = make_table("avx512vbmi_emulated");
}  // namespace wf
