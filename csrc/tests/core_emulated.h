// What the emulated kernel objects share: SIMDe, which writes every intrinsic out in plain C, so
// that sources for AVX-512 and AVX-VNNI run on a CPU without these instructions.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

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

// Debian 12's SIMDe lacks this one.
inline __m512i shift_right_epi32(__m512i a, unsigned count) {
  simde__m512i_private lanes = simde__m512i_to_private(a);
  for (auto& half : lanes.m256i) half = _mm256_srai_epi32(half, static_cast<int>(count));
  return simde__m512i_from_private(lanes);
}
#define _mm512_srai_epi32 shift_right_epi32

}  // namespace
}  // namespace wf
