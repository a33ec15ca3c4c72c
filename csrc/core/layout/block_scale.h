// What the block formats of ggml share when they hold a ternary matrix with one scale: every block
// carries its own float16 scale d, and a matrix can be read back only if they all agree.
#pragma once

#include <cstdint>

#include "half.h"

namespace wf {

// Why a tensor of a block format is no ternary matrix with one scale.
enum class UnpackError : std::uint8_t { none, bad_code, bad_scale, scales_differ };

// Collects the one scale of all blocks; blocks without a nonzero code may hold any scale.
class BlockScale {
 public:
  // False if d is not finite and positive, or not the scale seen before.
  bool add(std::uint16_t d) {
    if (bits_ == 0) bits_ = d;
    if (d == 0 || d >= 0x7c00u) return fail(UnpackError::bad_scale);
    return d == bits_ || fail(UnpackError::scales_differ);
  }
  bool fail(UnpackError error) {
    if (error_ == UnpackError::none) error_ = error;
    return false;
  }
  // 0 if every block was all zeros.
  float value() const { return half::f16_to_f32(bits_); }
  UnpackError error() const { return error_; }

 private:
  std::uint16_t bits_ = 0;
  UnpackError error_ = UnpackError::none;
};

static inline bool any_nonzero(const std::int8_t* codes, std::int64_t count) {
  int any = 0;
  for (std::int64_t i = 0; i < count; ++i) any |= codes[i];
  return any != 0;
}

// Bytes of n rows of k weights in blocks of `block` weights; -1 if k is not a multiple or it
// overflows.
static constexpr std::int64_t block_size_bytes(std::int64_t n, std::int64_t k, std::int64_t block,
                                               std::int64_t block_bytes) {
  std::int64_t bytes = 0;
  if (n < 0 || k < 0 || k % block != 0) return -1;
  if (__builtin_mul_overflow(k / block, block_bytes, &bytes)) return -1;
  return __builtin_mul_overflow(n, bytes, &bytes) ? -1 : bytes;
}

}  // namespace wf
