// IQ2_BN of ik_llama.cpp (type 135): every row is a float32 scale, then blocks of 64 weights in 16
// bytes; 2 bits per weight and 4 bytes a row. Only read here.
//
//   block of 64 weights = 16 bytes; byte i    bits 1..0   3..2   5..4   7..6
//   holds weight                                     i   16+i   32+i   48+i   as code + 1
//
// NOTE: a row of zeros is written with scale 0 and codes 1, so its scale decides.
#pragma once

#include <cstdint>

namespace wf::iq2_bn {

constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kBlockBytes = 16;
constexpr std::int64_t kRowHeaderBytes = 4;

// The codes and the scale of a row of `k` weights, k a multiple of 64; all codes are 0 if the scale
// is. False if a field holds 3, which no code has.
static inline bool unpack_row(const std::uint8_t* packed, std::int64_t k, std::int8_t* codes,
                              float& scale) {
  __builtin_memcpy(&scale, packed, sizeof scale);
  unsigned bad = 0;
  for (std::int64_t block = 0; block < k / kBlock; ++block) {
    const std::uint8_t* from = packed + kRowHeaderBytes + block * kBlockBytes;
    std::int8_t* to = codes + block * kBlock;
    for (int i = 0; i < kBlock; ++i) {
      const unsigned field = from[i % 16] >> (i / 16 * 2) & 3u;
      bad |= field & (field >> 1);
      to[i] = static_cast<std::int8_t>(scale == 0 ? 0 : static_cast<int>(field) - 1);
    }
  }
  return bad == 0;
}

}  // namespace wf::iq2_bn
