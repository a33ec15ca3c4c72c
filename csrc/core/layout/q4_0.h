// Q4_0 of ggml (type 2) used for ternary weights: 32 weights in 18 bytes, 4.5 bits per weight. It
// is the format for rows that are no multiple of 256: with d = scale the values -d, 0, d are exact.
//
//   bytes 0..1: float16 scale d
//   byte 2 + m, m = 0..15: low nibble weight m, high nibble weight 16 + m, as code + 8
#pragma once

#include <cstdint>

#include "block_scale.h"

namespace wf::q4_0 {

constexpr std::int64_t kBlock = 32;
constexpr std::int64_t kBlockBytes = 18;

static constexpr std::int64_t size_bytes(std::int64_t n, std::int64_t k) {
  return block_size_bytes(n, k, kBlock, kBlockBytes);
}

struct Position {
  std::int64_t byte;
  int shift;
};

static constexpr Position position(std::int64_t row, std::int64_t column, std::int64_t k) {
  const std::int64_t block = row * (k / kBlock) + column / kBlock;
  return {block * kBlockBytes + 2 + column % 16, static_cast<int>(column % kBlock / 16 * 4)};
}

static inline void pack(const std::int8_t* codes, std::int64_t n, std::int64_t k, float scale,
                        std::uint8_t* packed) {
  const std::uint16_t d = half::f32_to_f16(scale);
  for (std::int64_t block = 0; block < n * k / kBlock; ++block) {
    const std::int8_t* from = codes + block * kBlock;
    std::uint8_t* to = packed + block * kBlockBytes;
    half::store_u16(to, d);
    for (int m = 0; m < 16; ++m) {
      to[2 + m] = static_cast<std::uint8_t>((from[m] + 8) | (from[16 + m] + 8) << 4);
    }
  }
}

// Codes of `count` weights (whole blocks, for example one row). Their scale goes to `scale`. Fails
// on a nibble other than 7, 8, 9: then it is an ordinary Q4_0 tensor.
static inline bool unpack(const std::uint8_t* packed, std::int64_t count, std::int8_t* codes,
                          BlockScale& scale) {
  for (std::int64_t block = 0; block < count / kBlock; ++block) {
    const std::uint8_t* from = packed + block * kBlockBytes;
    std::int8_t* to = codes + block * kBlock;
    // In bytes and without branches, so that compilers vectorise it.
    std::uint8_t bad = 0;
    for (int m = 0; m < 16; ++m) {
      const auto low = static_cast<std::uint8_t>((from[2 + m] & 15) - 7);
      const auto high = static_cast<std::uint8_t>((from[2 + m] >> 4) - 7);
      bad |= ((low | high) & 0xfc) | (low & low >> 1) | (high & high >> 1);  // not 0, 1 or 2
      to[m] = static_cast<std::int8_t>(low - 1);
      to[16 + m] = static_cast<std::int8_t>(high - 1);
    }
    if (bad) return scale.fail(UnpackError::bad_code);
    if (any_nonzero(to, kBlock) && !scale.add(half::load_u16(from))) return false;
  }
  return true;
}

}  // namespace wf::q4_0
