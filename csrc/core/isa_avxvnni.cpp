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
inline __m256i dot4(__m256i sums, __m256i codes, __m256i a) {
  return _mm256_dpbusd_avx_epi32(sums, codes, a);
}
#include "lanes_avx2.h"
//
#include "widest_eight.h"
//
#include "prefetch.h"
//
#include "lut_avx2.h"
#include "pairs_avx2.h"
#include "panel_avx2.h"
#include "tile_avxvnni.h"
//
#include "table.inl"
}  // namespace

extern const KernelTable kAvxVnniTable;
const KernelTable kAvxVnniTable = make_table("avxvnni");
}  // namespace wf
