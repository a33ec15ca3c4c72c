// The packing of transformers' BitNet checkpoints: uint8 [ceil(n / 4), k], the scale in a tensor of
// its own. Rows are cut into four contiguous quarters of R = ceil(n / 4) rows:
//
//   byte (r, c)      bits 1..0   3..2   5..4   7..6
//   holds of column c    row r    R+r   2R+r   3R+r   as code + 1
//
// Rows beyond n, which the last quarters may have, are stored as 0.
#pragma once

#include <cstdint>

namespace wf::hf_packed {

static constexpr std::int64_t packed_rows(std::int64_t n) { return n / 4 + (n % 4 != 0); }

static constexpr std::int64_t size_bytes(std::int64_t n, std::int64_t k) {
  std::int64_t bytes = 0;
  if (n < 0 || k < 0 || __builtin_mul_overflow(packed_rows(n), k, &bytes)) return -1;
  return bytes;
}

struct Position {
  std::int64_t byte;
  int shift;
};

static constexpr Position position(std::int64_t row, std::int64_t column, std::int64_t n,
                                   std::int64_t k) {
  const std::int64_t quarter = packed_rows(n);
  return {row % quarter * k + column, static_cast<int>(row / quarter * 2)};
}

static inline void pack(const std::int8_t* codes, std::int64_t n, std::int64_t k,
                        std::uint8_t* packed) {
  const std::int64_t quarter = packed_rows(n);
  for (std::int64_t r = 0; r < quarter; ++r) {
    for (std::int64_t c = 0; c < k; ++c) {
      int byte = 0;
      for (std::int64_t row = r, shift = 0; row < n; row += quarter, shift += 2) {
        byte |= (codes[row * k + c] + 1) << shift;
      }
      packed[r * k + c] = static_cast<std::uint8_t>(byte);
    }
  }
}

// The row of codes that a packed row of `k` bytes holds at `shift`. False if a field holds 3, which
// no code has.
static inline bool unpack_fields(const std::uint8_t* packed_row, int shift, std::int64_t k,
                                 std::int8_t* codes) {
  unsigned bad = 0;
  for (std::int64_t c = 0; c < k; ++c) {
    const unsigned field = (packed_row[c] >> shift) & 3u;
    bad |= field & (field >> 1);
    codes[c] = static_cast<std::int8_t>(static_cast<int>(field) - 1);
  }
  return bad == 0;
}

// One row of codes; false as above.
static inline bool unpack_row(const std::uint8_t* packed, std::int64_t row, std::int64_t n,
                              std::int64_t k, std::int8_t* codes) {
  const Position first = position(row, 0, n, k);
  return unpack_fields(packed + first.byte, first.shift, k, codes);
}

}  // namespace wf::hf_packed
