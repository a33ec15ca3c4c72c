// Table lookup with 512-bit vpshufb: both panels of a pair in one register.
template <>
struct LutTile<2> {
  struct Sums {
    __m512i words, odd, high;
  };

  static void block(Sums& sums, const std::uint8_t* w, std::int64_t panel_bytes,
                    const std::uint8_t* tables) {
    const auto* first = reinterpret_cast<const __m256i*>(w);
    const auto* second = reinterpret_cast<const __m256i*>(w + panel_bytes);
    const __m512i packed = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(first)),
                                              _mm256_loadu_si256(second), 1);
    look_up_pair(sums, packed, tables);
    look_up_pair(sums, _mm512_srli_epi16(packed, 4), tables + lut::kTableBytes);
  }

  static void spread(const Sums& sums, std::int32_t (&even)[2][lut::kRows / 2],
                     std::int32_t (&odd)[2][lut::kRows / 2]) {
    std::uint16_t words[lut::kRows], odd_low[lut::kRows];
    std::uint8_t high[2 * lut::kRows];
    _mm512_storeu_si512(words, sums.words);
    _mm512_storeu_si512(odd_low, sums.odd);
    _mm512_storeu_si512(high, sums.high);
    for (int i = 0; i < 2; ++i) {
      spread_sums(words + i * lut::kRows / 2, odd_low + i * lut::kRows / 2, high + i * lut::kRows,
                  even[i], odd[i]);
    }
  }

 private:
  static __m512i load_table(const std::uint8_t* entries) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
  }

  static void look_up_pair(Sums& sums, __m512i shifted, const std::uint8_t* entries) {
    const __m512i index = _mm512_and_si512(shifted, _mm512_set1_epi8(15));
    const __m512i found = _mm512_shuffle_epi8(load_table(entries), index);
    const __m512i high = load_table(entries + lut::kTableBytes / 2);
    sums.words = _mm512_add_epi16(sums.words, found);
    sums.odd = _mm512_add_epi16(sums.odd, _mm512_srli_epi16(found, 8));
    sums.high = _mm512_add_epi8(sums.high, _mm512_shuffle_epi8(high, index));
  }
};
