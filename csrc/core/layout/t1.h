// t1: the 1.6-bit layout the kernels run on where memory is the limit: five codes in a byte.
//
// A panel is 16 rows; inside it, 20 columns make one 64-byte block, in column order:
//
//   byte r * 4 + c of a block = sum over p = 0..4 of place[p] * (code of row r, column 4p + c, + 1)
//
// with the places 1, 3, 9, 29 and 85. They are not the powers of three: 1, 9, 29 and 85 leave 1
// when divided by 4, so that place * digit & 3 is the digit, and each place is larger than all
// digits below it can reach. Rows are padded to 16 and columns to 20 with code 0.
#pragma once

#include <cstdint>

#include "digits.h"

namespace wf::t1 {

constexpr std::int64_t kRows = 16;
constexpr std::int64_t kColumns = 20;
constexpr std::int64_t kBlockBytes = 64;
constexpr int kDigits = 5;
constexpr int kPlaces[kDigits] = {1, 3, 9, 29, 85};
constexpr std::uint8_t kZeroByte = 1 + 3 + 9 + 29 + 85;  // five times code 0
constexpr unsigned kNoDigits = 1u << 15;

static constexpr std::int64_t blocks(std::int64_t k) { return (k + kColumns - 1) / kColumns; }
static constexpr std::int64_t panels(std::int64_t n) { return (n + kRows - 1) / kRows; }
static constexpr std::int64_t panel_bytes(std::int64_t k) { return blocks(k) * kBlockBytes; }

// Bytes of an n x k matrix, or -1 if that is not a number below 2^63.
static constexpr std::int64_t size_bytes(std::int64_t n, std::int64_t k) {
  std::int64_t bytes = 0;
  if (n < 0 || k < 0 || n > INT64_MAX - kRows || k > INT64_MAX / 8) return -1;
  return __builtin_mul_overflow(panels(n), panel_bytes(k), &bytes) ? -1 : bytes;
}

// The digits of a byte, digit p in bits 2p and 2p + 1; kNoDigits if no codes give this byte.
static constexpr unsigned digits_of(unsigned byte) {
  unsigned digits = 0;
  for (int p = kDigits - 1; p >= 0; --p) {
    const unsigned place = static_cast<unsigned>(kPlaces[p]);
    const unsigned digit = byte / place;
    if (digit > 2) return kNoDigits;
    digits |= digit << (2 * p);
    byte -= digit * place;
  }
  return digits;
}

struct DigitTable {
  std::uint16_t of[256];
};

static constexpr DigitTable make_digit_table() {
  DigitTable table{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    table.of[byte] = static_cast<std::uint16_t>(digits_of(byte));
  }
  return table;
}

static constexpr DigitTable kDigitTable = make_digit_table();

// First byte of the four that hold `row` in the block of `column`.
static constexpr std::int64_t block_offset(std::int64_t row, std::int64_t column, std::int64_t k) {
  return ((row / kRows) * blocks(k) + column / kColumns) * kBlockBytes + row % kRows * 4;
}

// Writes the bytes of one row of codes, its padding columns too; no byte is shared between rows.
static inline void pack_row(const std::int8_t* codes, std::int64_t row, std::int64_t k,
                            std::uint8_t* packed) {
  std::uint8_t* block = packed + block_offset(row, 0, k);
  for (; k >= kColumns; k -= kColumns, codes += kColumns, block += kBlockBytes) {
    std::uint32_t word = 0;
    for (int p = 0; p < kDigits; ++p) {
      word += load_digits(codes + 4 * p) * static_cast<std::uint32_t>(kPlaces[p]);
    }
    __builtin_memcpy(block, &word, 4);
  }
  for (std::int64_t c = 0; c < 4 && k > 0; ++c) {
    int byte = kZeroByte;
    for (std::int64_t p = 0; p < kDigits && 4 * p + c < k; ++p) {
      byte += kPlaces[p] * codes[4 * p + c];
    }
    block[c] = static_cast<std::uint8_t>(byte);
  }
}

// Writes the rows n..16*panels(n), which no pack_row reaches, as zeros.
static inline void pack_padding_rows(std::int64_t n, std::int64_t k, std::uint8_t* packed) {
  for (std::int64_t row = n; row < panels(n) * kRows; ++row) {
    for (std::int64_t first = 0; first < k; first += kColumns) {
      std::uint8_t* bytes = packed + block_offset(row, first, k);
      for (int c = 0; c < 4; ++c) bytes[c] = kZeroByte;
    }
  }
}

static inline void pack(const std::int8_t* codes, std::int64_t n, std::int64_t k,
                        std::uint8_t* packed) {
  for (std::int64_t row = 0; row < n; ++row) pack_row(codes + row * k, row, k, packed);
  pack_padding_rows(n, k, packed);
}

// False if a byte of the row is none that codes give.
static inline bool unpack_row(const std::uint8_t* packed, std::int64_t row, std::int64_t k,
                              std::int8_t* codes) {
  unsigned bad = 0;
  for (std::int64_t column = 0; column < k; ++column) {
    const std::uint8_t byte = packed[block_offset(row, column, k) + column % 4];
    const unsigned digits = kDigitTable.of[byte];
    bad |= digits & kNoDigits;
    const unsigned digit = (digits >> (column % kColumns / 4 * 2)) & 3u;
    codes[column] = static_cast<std::int8_t>(static_cast<int>(digit) - 1);
  }
  return bad == 0;
}

}  // namespace wf::t1
