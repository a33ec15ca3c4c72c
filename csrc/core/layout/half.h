// IEEE binary16 and bfloat16 to and from float32, in integers: the same on every CPU, for
// subnormals, infinities and NaNs too. Rounding is to nearest, ties to even.
#pragma once

#include <cstdint>

namespace wf::half {

static constexpr float from_bits(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

static constexpr float f16_to_f32(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1fu;
  const std::uint32_t mantissa = h & 0x3ffu;
  if (exponent == 31) return from_bits(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  // Subnormal or zero: mantissa * 2^-24, exact in float32.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

static constexpr std::uint16_t f32_to_f16(float value) {
  const auto bits = __builtin_bit_cast(std::uint32_t, value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves exactly the multiples of 2^-24, rounded, in the low bits.
    const float shifted = from_bits(magnitude) + 0.5f;
    return sign |
           static_cast<std::uint16_t>(__builtin_bit_cast(std::uint32_t, shifted) - 0x3f000000u);
  }
  const std::uint32_t odd = (magnitude >> 13) & 1u;
  return sign | static_cast<std::uint16_t>((magnitude - (112u << 23) + 0xfffu + odd) >> 13);
}

static constexpr float bf16_to_f32(std::uint16_t h) {
  return from_bits(static_cast<std::uint32_t>(h) << 16);
}

static constexpr std::uint16_t f32_to_bf16(float value) {
  const auto bits = __builtin_bit_cast(std::uint32_t, value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Little-endian 16-bit field at any address.
static inline std::uint16_t load_u16(const std::uint8_t* at) {
  return static_cast<std::uint16_t>(at[0] | at[1] << 8);
}

static inline void store_u16(std::uint8_t* at, std::uint16_t value) {
  at[0] = static_cast<std::uint8_t>(value & 0xffu);
  at[1] = static_cast<std::uint8_t>(value >> 8);
}

}  // namespace wf::half
