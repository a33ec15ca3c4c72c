// Conversions of 16-bit floats against the compiler's own _Float16 where it has one.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "layout/half.h"

namespace wf {
namespace {

std::uint32_t bits_of(float value) { return __builtin_bit_cast(std::uint32_t, value); }

// The nearest of all 63488 finite float16 values, ties to the even one: slow and obvious.
float nearest_f16(float value) {
  const double step = std::ldexp(1.0, std::max(std::ilogb(value), -14) - 10);
  const double rounded = std::nearbyint(static_cast<double>(value) / step) * step;
  return std::fabs(rounded) >= 65536.0 ? std::copysign(HUGE_VALF, value)
                                       : static_cast<float>(rounded);
}

TEST(Half, EveryF16RoundTrips) {
  for (std::uint32_t h = 0; h < 0x10000; ++h) {
    const float value = half::f16_to_f32(static_cast<std::uint16_t>(h));
    if ((h & 0x7fffu) > 0x7c00u) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_TRUE(std::isnan(half::f16_to_f32(half::f32_to_f16(value))));
    } else {
      EXPECT_EQ(half::f32_to_f16(value), h);
    }
  }
}

TEST(Half, F16RoundsToNearestEven) {
  std::mt19937 rng(1);
  for (int i = 0; i < 200000; ++i) {
    // Exponents around the float16 range, ties included (low bits cleared half of the time).
    std::uint32_t bits = (rng() & 0x807fffffu) | (100 + rng() % 45) << 23;
    if (i % 2) bits &= 0xfffff000u;
    const float value = half::from_bits(bits);
    EXPECT_EQ(bits_of(half::f16_to_f32(half::f32_to_f16(value))), bits_of(nearest_f16(value)))
        << value;
  }
}

TEST(Half, F16Edges) {
  EXPECT_EQ(half::f32_to_f16(65519.0f), 0x7bffu);
  EXPECT_EQ(half::f32_to_f16(65520.0f), 0x7c00u);
  EXPECT_EQ(half::f32_to_f16(-HUGE_VALF), 0xfc00u);
  EXPECT_EQ(half::f32_to_f16(0x1p-25f), 0u);  // a tie, to even
  EXPECT_EQ(half::f32_to_f16(0x1.000002p-25f), 1u);
  EXPECT_EQ(half::f16_to_f32(0x0001u), 0x1p-24f);
  EXPECT_TRUE(std::signbit(half::f16_to_f32(0x8000u)));
}

TEST(Half, Bf16RoundsToNearestEven) {
  EXPECT_EQ(half::f32_to_bf16(half::from_bits(0x3f808000u)), 0x3f80u);
  EXPECT_EQ(half::f32_to_bf16(half::from_bits(0x3f818000u)), 0x3f82u);
  EXPECT_EQ(half::f32_to_bf16(half::from_bits(0x3f808001u)), 0x3f81u);
  EXPECT_EQ(half::f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80u);
  EXPECT_TRUE(std::isnan(half::bf16_to_f32(half::f32_to_bf16(half::from_bits(0x7f800001u)))));
}

}  // namespace
}  // namespace wf
