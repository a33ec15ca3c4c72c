// TQ2_0 of ggml (type 35): 256 weights in 66 bytes, 2.0625 bits per weight.
//
//   bytes 0..63: two groups of 32; byte m of group g   bits 1..0   3..2   5..4   7..6
//   holds weight 128 g + m +                                  0     32     64     96   as code + 1
//   bytes 64..65: float16 scale d; an all-zero block has d = 0
#pragma once

#include <cstdint>

#include "block_scale.h"
#include "digits.h"

namespace wf::tq2_0 {

constexpr std::int64_t kBlock = 256;
constexpr std::int64_t kBlockBytes = 66;

static constexpr std::int64_t size_bytes(std::int64_t n, std::int64_t k) {
  return block_size_bytes(n, k, kBlock, kBlockBytes);
}

struct Position {
  std::int64_t byte;
  int shift;
};

static constexpr Position position(std::int64_t row, std::int64_t column, std::int64_t k) {
  const std::int64_t block = row * (k / kBlock) + column / kBlock;
  const std::int64_t within = column % 128;
  return {block * kBlockBytes + column % kBlock / 128 * 32 + within % 32,
          static_cast<int>(within / 32 * 2)};
}

static inline void pack(const std::int8_t* codes, std::int64_t n, std::int64_t k, float scale,
                        std::uint8_t* packed) {
  const std::uint16_t d = half::f32_to_f16(scale);
  for (std::int64_t block = 0; block < n * k / kBlock; ++block) {
    const std::int8_t* from = codes + block * kBlock;
    std::uint8_t* to = packed + block * kBlockBytes;
    for (int i = 0; i < 64; ++i) {
      const std::int8_t* group = from + i / 32 * 128 + i % 32;
      const int byte =
          (group[0] + 1) | (group[32] + 1) << 2 | (group[64] + 1) << 4 | (group[96] + 1) << 6;
      to[i] = static_cast<std::uint8_t>(byte);
    }
    half::store_u16(to + 64, any_nonzero(from, kBlock) ? d : std::uint16_t{0});
  }
}

// Codes of `count` weights (whole blocks, for example one row). Their scale goes to `scale`.
static inline bool unpack(const std::uint8_t* packed, std::int64_t count, std::int8_t* codes,
                          BlockScale& scale) {
  for (std::int64_t block = 0; block < count / kBlock; ++block) {
    const std::uint8_t* from = packed + block * kBlockBytes;
    std::int8_t* to = codes + block * kBlock;
    const std::uint16_t d = half::load_u16(from + 64);
    DigitCheck check;
    unpack_digits(from, to, to + 32, to + 64, to + 96, check);
    unpack_digits(from + 32, to + 128, to + 160, to + 192, to + 224, check);
    if (check.has_bad_code()) return scale.fail(UnpackError::bad_code);
    if ((d & 0x7fffu) == 0) {
      for (int i = 0; i < kBlock; ++i) to[i] = 0;
    } else if (check.has_nonzero_code() && !scale.add(d)) {
      return false;
    }
  }
  return true;
}

}  // namespace wf::tq2_0
