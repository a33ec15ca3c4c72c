// Q8_0 of ggml (type 8): 32 weights in 34 bytes, 8.5 bits per weight.
//
//   bytes 0..1: float16 scale d
//   byte 2 + i: int8 code of weight i; the weight is d * code
#pragma once

#include <cstdint>

#include "half.h"

namespace wf::q8_0 {

constexpr std::int64_t kBlock = 32;
constexpr std::int64_t kBlockBytes = 34;
constexpr std::int64_t kCodes = 2;  // where they begin

static constexpr std::int64_t row_bytes(std::int64_t k) { return k / kBlock * kBlockBytes; }

static inline float scale(const std::uint8_t* block) {
  return half::f16_to_f32(half::load_u16(block));
}

static inline float weight(const std::uint8_t* row, std::int64_t column) {
  const std::uint8_t* block = row + column / kBlock * kBlockBytes;
  const auto code = static_cast<std::int8_t>(block[kCodes + column % kBlock]);
  return scale(block) * static_cast<float>(code);
}

}  // namespace wf::q8_0
