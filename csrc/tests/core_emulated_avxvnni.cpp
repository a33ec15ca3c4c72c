// AVX-VNNI differs from the 256-bit form of AVX-512 VNNI in its encoding only.
#include "core_emulated.h"

namespace wf {
namespace {
#include "lanes_avx2.h"
//
#include "widest_eight.h"
//
#include "prefetch.h"
//
#include "lut_avx2.h"
#include "pairs_avx2.h"
#include "panel_avx2.h"

inline __m256i dot4(__m256i sums, __m256i codes, __m256i a) {
  return _mm256_dpbusd_epi32(sums, codes, a);
}
//
#include "tile_avxvnni.h"
//
#include "table.inl"
}  // namespace

extern const KernelTable kEmulatedAvxVnniTable;
const KernelTable kEmulatedAvxVnniTable = make_table("avxvnni_emulated");
}  // namespace wf
