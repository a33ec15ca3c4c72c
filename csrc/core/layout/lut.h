// lut: the 2-bit layout of the table-lookup kernels: two codes in four bits are the index into a
// table of the nine sums that two activations can give.
//
// A panel is 32 rows; inside it, 4 columns make one 32-byte block, in column order:
//
//   byte r of a block holds of row r
//     bits 3..0   3 * (code of column 0 + 1) + (code of column 1 + 1)
//     bits 7..4   3 * (code of column 2 + 1) + (code of column 3 + 1)
//
// Rows are padded to 32 and columns to 4 with code 0. The idea is that of TL1 in BitNet.cpp (arXiv
// 2410.16144); lanes are rows here, so tables are shared by all lanes.
#pragma once

#include <cstdint>

namespace wf::lut {

constexpr std::int64_t kRows = 32;
constexpr std::int64_t kColumns = 4;
constexpr std::int64_t kBlockBytes = 32;
constexpr std::uint8_t kZeroByte = 0x44;  // four times code 0
constexpr unsigned kEntries = 9;          // of a table; it is padded to 16
// Bytes of the table of one pair of columns: the low bytes of its 16 entries, then the high bytes.
constexpr std::int64_t kTableBytes = 32;

static constexpr std::int64_t blocks(std::int64_t k) { return (k + kColumns - 1) / kColumns; }
static constexpr std::int64_t panels(std::int64_t n) { return (n + kRows - 1) / kRows; }
static constexpr std::int64_t panel_bytes(std::int64_t k) { return blocks(k) * kBlockBytes; }

// Bytes of the tables of one row of k activations.
static constexpr std::int64_t tables_bytes(std::int64_t k) { return blocks(k) * 2 * kTableBytes; }

// Bytes of an n x k matrix, or -1 if that is not a number below 2^63.
static constexpr std::int64_t size_bytes(std::int64_t n, std::int64_t k) {
  std::int64_t bytes = 0;
  if (n < 0 || k < 0 || n > INT64_MAX - kRows || k > INT64_MAX / 16) return -1;
  return __builtin_mul_overflow(panels(n), panel_bytes(k), &bytes) ? -1 : bytes;
}

// Byte that holds `row` in the block of `column`.
static constexpr std::int64_t byte_offset(std::int64_t row, std::int64_t column, std::int64_t k) {
  return ((row / kRows) * blocks(k) + column / kColumns) * kBlockBytes + row % kRows;
}

// Writes the bytes of one row of codes, its padding columns too; no byte is shared between rows.
static inline void pack_row(const std::int8_t* codes, std::int64_t row, std::int64_t k,
                            std::uint8_t* packed) {
  constexpr int kPlaces[kColumns] = {3, 1, 3 << 4, 1 << 4};
  for (std::int64_t first = 0; first < k; first += kColumns) {
    int byte = kZeroByte;
    for (std::int64_t c = 0; c < kColumns && first + c < k; ++c) {
      byte += kPlaces[c] * codes[first + c];
    }
    packed[byte_offset(row, first, k)] = static_cast<std::uint8_t>(byte);
  }
}

// Writes the rows n..32*panels(n), which no pack_row reaches, as zeros.
static inline void pack_padding_rows(std::int64_t n, std::int64_t k, std::uint8_t* packed) {
  for (std::int64_t row = n; row < panels(n) * kRows; ++row) {
    for (std::int64_t first = 0; first < k; first += kColumns) {
      packed[byte_offset(row, first, k)] = kZeroByte;
    }
  }
}

static inline void pack(const std::int8_t* codes, std::int64_t n, std::int64_t k,
                        std::uint8_t* packed) {
  for (std::int64_t row = 0; row < n; ++row) pack_row(codes + row * k, row, k, packed);
  pack_padding_rows(n, k, packed);
}

// False if an index of the row is none that codes give.
static inline bool unpack_row(const std::uint8_t* packed, std::int64_t row, std::int64_t k,
                              std::int8_t* codes) {
  bool is_valid = true;
  for (std::int64_t column = 0; column < k; ++column) {
    const unsigned byte = packed[byte_offset(row, column, k)];
    const unsigned index = column % kColumns < 2 ? byte & 15u : byte >> 4;
    is_valid &= index < kEntries;
    const unsigned digit = column % 2 == 0 ? index / 3 : index % 3;
    codes[column] = static_cast<std::int8_t>(static_cast<int>(digit) - 1);
  }
  return is_valid;
}

}  // namespace wf::lut
