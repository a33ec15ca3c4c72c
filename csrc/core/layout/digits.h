// Codes as packed bytes hold them: digits, each code + 1.
#pragma once

#include <cstdint>

namespace wf {

// Four codes as the digits of one word, a byte each.
static inline std::uint32_t load_digits(const std::int8_t* codes) {
  std::uint32_t word = 0;
  __builtin_memcpy(&word, codes, 4);
  // Adds 1 to each byte: the lower seven bits by one sum, whose carries stay within bytes.
  return ((word & 0x7f7f7f7fu) + 0x01010101u) ^ (word & 0x80808080u);
}

// What unpacked bytes of four 2-bit digits held.
struct DigitCheck {
  std::uint8_t bad = 0;      // bit 2p: a digit p was 3, which no code has
  std::uint8_t nonzero = 0;  // bits where bytes differed from four times code 0

  bool has_bad_code() const { return (bad & 0x55u) != 0; }
  bool has_nonzero_code() const { return nonzero != 0; }
};

// The codes of 32 bytes of four 2-bit digits, the lowest first: digit p of byte i to codes_p[i]. A
// plain loop with constant shifts, which every compiler vectorises.
static inline void unpack_digits(const std::uint8_t* packed, std::int8_t* codes_0,
                                 std::int8_t* codes_1, std::int8_t* codes_2, std::int8_t* codes_3,
                                 DigitCheck& check) {
  std::uint8_t bad = 0;
  std::uint8_t nonzero = 0;
  for (int i = 0; i < 32; ++i) {
    const std::uint8_t byte = packed[i];
    bad |= byte & (byte >> 1);
    nonzero |= byte ^ 0x55;
    codes_0[i] = static_cast<std::int8_t>((byte & 3) - 1);
    codes_1[i] = static_cast<std::int8_t>((byte >> 2 & 3) - 1);
    codes_2[i] = static_cast<std::int8_t>((byte >> 4 & 3) - 1);
    codes_3[i] = static_cast<std::int8_t>((byte >> 6) - 1);
  }
  check.bad |= bad;
  check.nonzero |= nonzero;
}

}  // namespace wf
