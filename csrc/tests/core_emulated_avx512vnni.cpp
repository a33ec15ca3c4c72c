// The AVX-512 VNNI kernel sources over SIMDe: every intrinsic written out in plain C, so that they
// run on a CPU without AVX-512.
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cstdint>

#include "kernels.h"
#include "layout/half.h"
#include "layout/t2.h"

namespace wf {
namespace {

// Debian 12's SIMDe lacks this one.
inline __m512i shift_right_epi32(__m512i a, unsigned count) {
  simde__m512i_private lanes = simde__m512i_to_private(a);
  for (auto& half : lanes.m256i) half = _mm256_srai_epi32(half, static_cast<int>(count));
  return simde__m512i_from_private(lanes);
}
#define _mm512_srai_epi32 shift_right_epi32

#include "lanes_avx2.h"
#include "tile_avx512vnni.h"
//
#include "table.inl"
}  // namespace

extern const KernelTable kEmulatedAvx512VnniTable;
const KernelTable kEmulatedAvx512VnniTable = make_table("avx512vnni_emulated");
}  // namespace wf
