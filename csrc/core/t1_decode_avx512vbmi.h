// Digits of t1 with VBMI: the highest one is taken off, one permutation over a table of 128 bytes
// gives the four others as 2-bit fields, which are multiplied where they are.

// What is left of a byte, at most 2 * (1 + 3 + 9 + 29), to its digits as a byte of t2.
struct FieldTable {
  std::uint8_t of[128];
};

constexpr FieldTable make_field_table() {
  FieldTable table{};
  for (unsigned rest = 0; rest < 128; ++rest) {
    const unsigned digits = t1::digits_of(rest);
    table.of[rest] = digits == t1::kNoDigits ? 0 : static_cast<std::uint8_t>(digits & 0xffu);
  }
  return table;
}

alignas(64) constexpr FieldTable kFieldTable = make_field_table();

struct T1Decoder {
  // The four fields, 1, 4, 16 and 64 times too large, and 85 times the highest digit.
  static constexpr int kParts = 5;

  static Acc total(const SplitSums<kParts>& sums) {
    Acc acc = T2Tile::total(SplitSums<4>{{sums.part[0], sums.part[1], sums.part[2], sums.part[3]}});
    add(acc, {divide_exactly<85>(sums.part[4])});
    return acc;
  }

  // The products of one block and the activations of 20 columns.
  static void dot(SplitSums<kParts>& sums, __m512i bytes, const std::int8_t* q) {
    sums.part[4] = _mm512_dpbusd_epi32(sums.part[4], take_multiple<85>(bytes), broadcast4(q + 16));
    const __m512i four = fields(bytes);
    for (int field = 0; field < 4; ++field) {
      const __m512i codes = _mm512_and_si512(four, splat8(3 << (2 * field)));
      sums.part[field] = _mm512_dpbusd_epi32(sums.part[field], codes, broadcast4(q + 4 * field));
    }
  }

  static Digits digits(__m512i bytes) {
    Digits digits;
    digits.of[4] = _mm512_and_si512(take_multiple<85>(bytes), splat8(3));
    const __m512i four = fields(bytes);
    for (int field = 0; field < 4; ++field) {
      const __m512i shifted = _mm512_srli_epi16(four, static_cast<unsigned>(2 * field));
      digits.of[field] = _mm512_and_si512(shifted, splat8(3));
    }
    return digits;
  }

 private:
  static __m512i fields(__m512i rest) {
    return _mm512_permutex2var_epi8(_mm512_load_si512(kFieldTable.of), rest,
                                    _mm512_load_si512(kFieldTable.of + 64));
  }
};
