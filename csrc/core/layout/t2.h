// t2: the 2-bit layout the kernels run on, one for all instruction sets.
//
// A panel is 16 rows; inside it, 16 columns make one 64-byte block, in column order:
//
//   byte r * 4 + c of a block      bits 1..0   3..2   5..4   7..6
//   holds of row r the columns           c    4+c    8+c   12+c     as code + 1, so 0, 1 or 2
//
// So the 4 bytes of a row are one int32 lane, an AND (and a shift) makes the operand of a 4-way dot
// product, and a lane never meets another row. Rows are padded to 16 and columns to 16 with code 0.
//
// Everything here is static: the instruction set objects may hold no symbol that a linker could
// share with code for older CPUs. The other layouts follow suit.
#pragma once

#include <cstdint>

#include "digits.h"

namespace wf::t2 {

constexpr std::int64_t kRows = 16;
constexpr std::int64_t kColumns = 16;
constexpr std::int64_t kBlockBytes = 64;
constexpr std::uint8_t kZeroByte = 0x55;  // four times code 0

static constexpr std::int64_t blocks(std::int64_t k) { return (k + kColumns - 1) / kColumns; }
static constexpr std::int64_t panels(std::int64_t n) { return (n + kRows - 1) / kRows; }
static constexpr std::int64_t panel_bytes(std::int64_t k) { return blocks(k) * kBlockBytes; }

// Bytes of an n x k matrix, or -1 if that is not a number below 2^63.
static constexpr std::int64_t size_bytes(std::int64_t n, std::int64_t k) {
  std::int64_t bytes = 0;
  if (n < 0 || k < 0 || n > INT64_MAX - kRows || k > INT64_MAX / 8) return -1;
  return __builtin_mul_overflow(panels(n), panel_bytes(k), &bytes) ? -1 : bytes;
}

struct Position {
  std::int64_t byte;
  int shift;
};

static constexpr Position position(std::int64_t row, std::int64_t column, std::int64_t k) {
  const std::int64_t block = (row / kRows) * blocks(k) + column / kColumns;
  const std::int64_t byte = (row % kRows) * 4 + column % 4;
  return {block * kBlockBytes + byte, static_cast<int>(column % kColumns / 4 * 2)};
}

// Writes the bytes of one row of codes, its padding columns too; no byte is shared between rows.
static inline void pack_row(const std::int8_t* codes, std::int64_t row, std::int64_t k,
                            std::uint8_t* packed) {
  std::uint8_t* block = packed + position(row, 0, k).byte;
  for (; k >= kColumns; k -= kColumns, codes += kColumns, block += kBlockBytes) {
    const std::uint32_t word = load_digits(codes) | load_digits(codes + 4) << 2 |
                               load_digits(codes + 8) << 4 | load_digits(codes + 12) << 6;
    __builtin_memcpy(block, &word, 4);
  }
  for (std::int64_t c = 0; c < 4 && k > 0; ++c) {
    unsigned byte = kZeroByte;
    for (std::int64_t p = 0; p < 4 && 4 * p + c < k; ++p) {
      byte += static_cast<unsigned>(codes[4 * p + c]) << (2 * p);
    }
    block[c] = static_cast<std::uint8_t>(byte);
  }
}

// Writes the rows n..16*panels(n), which no pack_row reaches, as zeros.
static inline void pack_padding_rows(std::int64_t n, std::int64_t k, std::uint8_t* packed) {
  for (std::int64_t row = n; row < panels(n) * kRows; ++row) {
    for (std::int64_t first = 0; first < k; first += kColumns) {
      std::uint8_t* block = packed + position(row, first, k).byte;
      for (int c = 0; c < 4; ++c) block[c] = kZeroByte;
    }
  }
}

static inline void pack(const std::int8_t* codes, std::int64_t n, std::int64_t k,
                        std::uint8_t* packed) {
  for (std::int64_t row = 0; row < n; ++row) pack_row(codes + row * k, row, k, packed);
  pack_padding_rows(n, k, packed);
}

// False if a field of the row holds 3, which no code has.
static inline bool unpack_row(const std::uint8_t* packed, std::int64_t row, std::int64_t k,
                              std::int8_t* codes) {
  unsigned bad = 0;
  for (std::int64_t column = 0; column < k; ++column) {
    const Position at = position(row, column, k);
    const unsigned field = (packed[at.byte] >> at.shift) & 3u;
    bad |= field & (field >> 1);
    codes[column] = static_cast<std::int8_t>(static_cast<int>(field) - 1);
  }
  return bad == 0;
}

// Block [i, j] of the n x k matrix becomes block [j, i] of the k x n one.
static inline void transpose_block(const std::uint8_t* from, std::uint8_t* to) {
  std::uint32_t rows[kRows];  // the bytes of a row: its columns c, 4 + c, 8 + c, 12 + c
  __builtin_memcpy(rows, from, sizeof rows);
  for (int p = 0; p < 4; ++p) {
    // Of column 4p + c, byte c holds the rows r, 4 + r, 8 + r, 12 + r: byte r of its own row.
    std::uint32_t fields[4];
    for (int r = 0; r < 4; ++r) {
      fields[r] = 0;
      for (int high = 0; high < 4; ++high) {
        fields[r] |= (rows[4 * high + r] >> (2 * p) & 0x03030303u) << (2 * high);
      }
    }
    for (int c = 0; c < 4; ++c) {
      std::uint32_t row = 0;
      for (int r = 0; r < 4; ++r) row |= (fields[r] >> (8 * c) & 0xffu) << (8 * r);
      __builtin_memcpy(to + (4 * p + c) * 4, &row, 4);
    }
  }
}

}  // namespace wf::t2
