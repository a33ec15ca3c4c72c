// What the CPU offers and the operating system has enabled.
#pragma once

#include <cstdint>

namespace wf {

enum CpuFeature : std::uint32_t {
  kAvx2 = 1u << 0,        // AVX2, FMA, F16C, BMI2 and saved ymm state
  kAvx512Vnni = 1u << 1,  // AVX-512 F, BW, DQ, VL, VNNI and saved zmm and mask state
  kAvx512Vbmi = 1u << 2,  // AVX-512 VBMI and saved zmm and mask state
  kAvxVnni = 1u << 3,     // AVX-VNNI, the 256-bit VEX encoding, and saved ymm state
  kDotprod = 1u << 4,     // Armv8.2 signed and unsigned dot product
  kI8mm = 1u << 5,        // Armv8.6 int8 matrix multiply
  kAvx512Bf16 = 1u << 6,  // AVX-512 BF16, beside kAvx512Vnni
  kAmxBf16 = 1u << 7,     // AMX BF16, saved or not
};

std::uint32_t detect_cpu_features() noexcept;

}  // namespace wf
