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
#include "t1_decode_avx512.h"
//
#include "tile_avx512_t1.h"
//
#include "table.inl"
}  // namespace

extern const KernelTable kEmulatedAvx512VnniTable;
const KernelTable kEmulatedAvx512VnniTable = make_table("avx512vnni_emulated");
}  // namespace wf
