// I2_S, as bitnet.cpp's x86 build writes it (ggml type 36): one flat row-major stream of codes,
// then one float32 scale.
//
//   block of 128 weights = 32 bytes; byte p    bits 7..6   5..4   3..2   1..0
//   holds weight                                      p   32+p   64+p   96+p   as code + 1
//
// At byte n*k/4 follows the scale, zero-padded to 32 bytes. NOTE: bitnet.cpp's ARM build groups 64
// weights in 16 bytes under the same type id; such a file cannot be told apart by its header.
#pragma once

#include <cstdint>

#include "digits.h"

namespace wf::i2s {

constexpr std::int64_t kBlock = 128;
constexpr std::int64_t kBlockBytes = 32;
constexpr std::int64_t kTailBytes = 32;

// Bytes of an n x k matrix, scale included, or -1 if n * k is not a multiple of 128 (or overflows).
static constexpr std::int64_t size_bytes(std::int64_t n, std::int64_t k) {
  std::int64_t count = 0;
  if (n < 0 || k < 0 || __builtin_mul_overflow(n, k, &count) || count % kBlock != 0) return -1;
  return count / 4 + kTailBytes;
}

struct Position {
  std::int64_t byte;
  int shift;
};

static constexpr Position position(std::int64_t row, std::int64_t column, std::int64_t k) {
  const std::int64_t index = row * k + column;
  const std::int64_t within = index % kBlock;
  return {index / kBlock * kBlockBytes + within % 32, static_cast<int>(6 - within / 32 * 2)};
}

// `scale` as stored, little-endian.
static inline float load_scale(const std::uint8_t* packed, std::int64_t n, std::int64_t k) {
  float scale = 0;
  __builtin_memcpy(&scale, packed + n * k / 4, sizeof scale);
  return scale;
}

static inline void pack(const std::int8_t* codes, std::int64_t n, std::int64_t k, float scale,
                        std::uint8_t* packed) {
  const std::int64_t count = n * k;
  for (std::int64_t block = 0; block < count / kBlock; ++block) {
    const std::int8_t* from = codes + block * kBlock;
    std::uint8_t* to = packed + block * kBlockBytes;
    for (int p = 0; p < kBlockBytes; ++p) {
      const int byte = (from[p] + 1) << 6 | (from[32 + p] + 1) << 4 | (from[64 + p] + 1) << 2 |
                       (from[96 + p] + 1);
      to[p] = static_cast<std::uint8_t>(byte);
    }
  }
  std::uint8_t* tail = packed + count / 4;
  for (int i = 0; i < kTailBytes; ++i) tail[i] = 0;
  __builtin_memcpy(tail, &scale, sizeof scale);
}

// Codes [begin, begin + count) of the stream; row r is [r * k, (r + 1) * k). False if a field holds
// 3, which no code has.
static inline bool unpack(const std::uint8_t* packed, std::int64_t begin, std::int64_t count,
                          std::int8_t* codes) {
  DigitCheck check;
  for (std::int64_t i = 0; i < count;) {
    const Position at = position(0, begin + i, 0);
    if ((begin + i) % kBlock == 0 && count - i >= kBlock) {
      std::int8_t* to = codes + i;
      unpack_digits(packed + at.byte, to + 96, to + 64, to + 32, to, check);
      i += kBlock;
    } else {
      const unsigned field = (packed[at.byte] >> at.shift) & 3u;
      check.bad |= static_cast<std::uint8_t>(field & (field >> 1));
      codes[i++] = static_cast<std::int8_t>(static_cast<int>(field) - 1);
    }
  }
  return !check.has_bad_code();
}

}  // namespace wf::i2s
