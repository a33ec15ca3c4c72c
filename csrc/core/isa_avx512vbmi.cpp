#include <immintrin.h>

#include <cstdint>

#include "kernels.h"
#include "layout/half.h"
#include "layout/i8.h"
#include "layout/lut.h"
#include "layout/q6_k.h"
#include "layout/q8_0.h"
#include "layout/t1.h"
#include "layout/t2.h"

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

extern const KernelTable kAvx512VbmiTable;
const KernelTable kAvx512VbmiTable = make_table("avx512vbmi");
}  // namespace wf
