// Q6_K of ggml (type 14): 256 weights in 210 bytes, 6.5625 bits per weight. Eight parts of 32
// weights, each with two int8 scales, one for 16 weights.
//
//   bytes 0..127: low 4 bits of the codes. Parts 0 and 2 share bytes 0..31 (low and high nibble),
//     1 and 3 bytes 32..63, 4 and 6 bytes 64..95, 5 and 7 bytes 96..127
//   bytes 128..191: bits 4 and 5. Parts 0..3 share bytes 128..159, two bits each from the lowest
//     on, 4..7 bytes 160..191
//   bytes 192..207: int8 scales, 192 + 2 p and 193 + 2 p of part p
//   bytes 208..209: float16 scale d; the weight is d * scale * (code - 32)
#pragma once

#include <cstdint>

#include "half.h"

namespace wf::q6_k {

constexpr std::int64_t kBlock = 256;
constexpr std::int64_t kBlockBytes = 210;
constexpr std::int64_t kPart = 32;
constexpr std::int64_t kParts = kBlock / kPart;

static constexpr std::int64_t row_bytes(std::int64_t k) { return k / kBlock * kBlockBytes; }

// In bytes and with constant shifts, so that compilers vectorise it.
template <int LowShift, int HighShift>
static inline void unpack_codes(const std::uint8_t* low, const std::uint8_t* high,
                                std::int8_t* codes) {
  for (int i = 0; i < kPart; ++i) {
    const auto nibble = static_cast<std::uint8_t>(low[i] >> LowShift & 15);
    const auto top = static_cast<std::uint8_t>(high[i] >> HighShift & 3);
    codes[i] = static_cast<std::int8_t>(static_cast<std::uint8_t>(nibble | top << 4) - 32);
  }
}

// code - 32 of the weights of one part.
static inline void unpack_part(const std::uint8_t* block, std::int64_t part, std::int8_t* codes) {
  const std::uint8_t* low = block + 64 * (part / 4) + 32 * (part % 2);
  const std::uint8_t* high = block + 128 + 32 * (part / 4);
  switch (part % 4) {
    case 0:
      return unpack_codes<0, 0>(low, high, codes);
    case 1:
      return unpack_codes<0, 2>(low, high, codes);
    case 2:
      return unpack_codes<4, 4>(low, high, codes);
    default:
      return unpack_codes<4, 6>(low, high, codes);
  }
}

// What the codes of a part are multiplied by: of its first 16 weights (0) or the others (1).
static inline float factor(const std::uint8_t* block, std::int64_t part, std::int64_t which) {
  const auto scale = static_cast<std::int8_t>(block[192 + 2 * part + which]);
  return half::f16_to_f32(half::load_u16(block + 208)) * static_cast<float>(scale);
}

// The weights of the part that `column`, a multiple of kPart, begins.
static inline void weights(const std::uint8_t* row, std::int64_t column, float* out) {
  const std::uint8_t* block = row + column / kBlock * kBlockBytes;
  const std::int64_t part = column % kBlock / kPart;
  std::int8_t codes[kPart];
  unpack_part(block, part, codes);
  const float factors[] = {factor(block, part, 0), factor(block, part, 1)};
  for (int i = 0; i < kPart; ++i) out[i] = factors[i / 16] * static_cast<float>(codes[i]);
}

}  // namespace wf::q6_k
