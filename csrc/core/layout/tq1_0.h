// TQ1_0 of ggml (type 34): 256 weights in 54 bytes, 1.6875 bits per weight.
//
//   bytes  0..31: weights   0..159; byte m holds   m + 32 n, n = 0..4
//   bytes 32..47: weights 160..239; byte m holds 160 + m + 16 n, n = 0..4   (m from 0)
//   bytes 48..51: weights 240..255; byte j holds 240 + j + 4 n, n = 0..3, and a fifth trit 0
//   bytes 52..53: float16 scale d; an all-zero block has d = 0
//
// A byte is ceil(v * 256 / 243) with v = sum trit_n * 3^(4 - n), trit = code + 1: a fixed-point
// fraction, so that multiplying by 3^n and looking at the top gives trit n without a division.
#pragma once

#include <cstdint>

#include "block_scale.h"

namespace wf::tq1_0 {

constexpr std::int64_t kBlock = 256;
constexpr std::int64_t kBlockBytes = 54;

static constexpr std::int64_t size_bytes(std::int64_t n, std::int64_t k) {
  return block_size_bytes(n, k, kBlock, kBlockBytes);
}

struct Position {
  std::int64_t byte;
  int trit;  // 0 is the most significant of five
};

static constexpr Position position(std::int64_t row, std::int64_t column, std::int64_t k) {
  const std::int64_t start = (row * (k / kBlock) + column / kBlock) * kBlockBytes;
  const std::int64_t within = column % kBlock;
  if (within < 160) return {start + within % 32, static_cast<int>(within / 32)};
  if (within < 240) return {start + 32 + within % 16, static_cast<int>((within - 160) / 16)};
  return {start + 48 + within % 4, static_cast<int>((within - 240) / 4)};
}

// One byte of `trits` codes that lie `stride` apart; missing trits are stored as 0.
static inline std::uint8_t pack_byte(const std::int8_t* codes, int stride, int trits) {
  int v = 0;
  for (int n = 0; n < 5; ++n) v = v * 3 + (n < trits ? codes[n * stride] + 1 : 0);
  return static_cast<std::uint8_t>((v * 256 + 242) / 243);
}

static inline void unpack_byte(std::uint8_t byte, int stride, int trits, std::int8_t* codes) {
  unsigned fraction = byte;
  for (int n = 0; n < trits; ++n) {
    codes[n * stride] = static_cast<std::int8_t>(static_cast<int>(fraction * 3 >> 8) - 1);
    fraction = fraction * 3 & 0xffu;
  }
}

static inline void pack(const std::int8_t* codes, std::int64_t n, std::int64_t k, float scale,
                        std::uint8_t* packed) {
  const std::uint16_t d = half::f32_to_f16(scale);
  for (std::int64_t block = 0; block < n * k / kBlock; ++block) {
    const std::int8_t* from = codes + block * kBlock;
    std::uint8_t* to = packed + block * kBlockBytes;
    for (int m = 0; m < 32; ++m) to[m] = pack_byte(from + m, 32, 5);
    for (int m = 0; m < 16; ++m) to[32 + m] = pack_byte(from + 160 + m, 16, 5);
    for (int m = 0; m < 4; ++m) to[48 + m] = pack_byte(from + 240 + m, 4, 4);
    half::store_u16(to + 52, any_nonzero(from, kBlock) ? d : std::uint16_t{0});
  }
}

// Codes of `count` weights (whole blocks, for example one row). Their scale goes to `scale`.
static inline bool unpack(const std::uint8_t* packed, std::int64_t count, std::int8_t* codes,
                          BlockScale& scale) {
  for (std::int64_t block = 0; block < count / kBlock; ++block) {
    const std::uint8_t* from = packed + block * kBlockBytes;
    std::int8_t* to = codes + block * kBlock;
    const std::uint16_t d = half::load_u16(from + 52);
    if ((d & 0x7fffu) == 0) {
      for (int i = 0; i < kBlock; ++i) to[i] = 0;
      continue;
    }
    for (int m = 0; m < 32; ++m) unpack_byte(from[m], 32, 5, to + m);
    for (int m = 0; m < 16; ++m) unpack_byte(from[32 + m], 16, 5, to + 160 + m);
    for (int m = 0; m < 4; ++m) unpack_byte(from[48 + m], 4, 4, to + 240 + m);
    if (any_nonzero(to, kBlock) && !scale.add(d)) return false;
  }
  return true;
}

}  // namespace wf::tq1_0
