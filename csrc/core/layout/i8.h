// i8: int8 rows for products with int16 activations, one layout for all instruction sets.
//
// A panel is 16 rows; inside it, 2 columns make one 32-byte block, in column order: byte 2 * r + c
// of a block is column c of row r. Widened to int16, a row's two bytes are one int32 lane, which is
// what a pairwise multiply-add (vpmaddwd, vpdpwssd) sums. Rows are padded to 16 and columns to 2
// with zeros.
#pragma once

#include <cstdint>

namespace wf::i8 {

constexpr std::int64_t kRows = 16;
constexpr std::int64_t kColumns = 2;
constexpr std::int64_t kBlockBytes = 32;

static constexpr std::int64_t blocks(std::int64_t k) { return (k + kColumns - 1) / kColumns; }
static constexpr std::int64_t panels(std::int64_t n) { return (n + kRows - 1) / kRows; }
static constexpr std::int64_t panel_bytes(std::int64_t k) { return blocks(k) * kBlockBytes; }
static constexpr std::int64_t size_bytes(std::int64_t n, std::int64_t k) {
  return panels(n) * panel_bytes(k);
}

// Writes rows of one panel, `count` <= 16 of them, k values each, one after the other. Bytes of
// other rows and padding columns stay as they are.
static inline void pack_panel(const std::int8_t* rows, std::int64_t count, std::int64_t k,
                              std::int8_t* panel) {
  for (std::int64_t r = 0; r < count; ++r) {
    for (std::int64_t c = 0; c < k; ++c) {
      panel[c / kColumns * kBlockBytes + r * kColumns + c % kColumns] = rows[r * k + c];
    }
  }
}

}  // namespace wf::i8
