// Table lookup with vpshufb, 32 rows in a register.
//
// Low bytes are added as 16-bit words, which sums even rows and, 256 times, odd ones; the odd rows
// are also summed alone, and taking them off gives the even ones. This saves an AND per lookup.

// Rows 2i in `words` minus 256 times `odd`, rows 2i + 1 in `odd`, high bytes of all in `high`.
inline void spread_sums(const std::uint16_t* words, const std::uint16_t* odd_low,
                        const std::uint8_t* high, std::int32_t* even, std::int32_t* odd) {
  for (int r = 0; r < lut::kRows / 2; ++r) {
    const auto even_low = static_cast<std::uint16_t>(words[r] - (odd_low[r] << 8));
    even[r] += even_low + 256 * high[2 * r];
    odd[r] += odd_low[r] + 256 * high[2 * r + 1];
  }
}

inline __m256i load_table(const std::uint8_t* entries) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
}

template <int Panels>
struct LutTile {
  struct Sums {
    __m256i words[Panels], odd[Panels], high[Panels];
  };

  static void block(Sums& sums, const std::uint8_t* w, std::int64_t panel_bytes,
                    const std::uint8_t* tables) {
    for (int pair = 0; pair < 2; ++pair) {
      const std::uint8_t* entries = tables + pair * lut::kTableBytes;
      const __m256i low = load_table(entries), high = load_table(entries + lut::kTableBytes / 2);
      for (int i = 0; i < Panels; ++i) {
        __m256i index = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + i * panel_bytes));
        if (pair == 1) index = _mm256_srli_epi16(index, 4);
        index = _mm256_and_si256(index, _mm256_set1_epi8(15));
        const __m256i found = _mm256_shuffle_epi8(low, index);
        sums.words[i] = _mm256_add_epi16(sums.words[i], found);
        sums.odd[i] = _mm256_add_epi16(sums.odd[i], _mm256_srli_epi16(found, 8));
        sums.high[i] = _mm256_add_epi8(sums.high[i], _mm256_shuffle_epi8(high, index));
      }
    }
  }

  static void spread(const Sums& sums, std::int32_t (&even)[Panels][lut::kRows / 2],
                     std::int32_t (&odd)[Panels][lut::kRows / 2]) {
    for (int i = 0; i < Panels; ++i) {
      std::uint16_t words[lut::kRows / 2], odd_low[lut::kRows / 2];
      std::uint8_t high[lut::kRows];
      __builtin_memcpy(words, &sums.words[i], sizeof words);
      __builtin_memcpy(odd_low, &sums.odd[i], sizeof odd_low);
      __builtin_memcpy(high, &sums.high[i], sizeof high);
      spread_sums(words, odd_low, high, even[i], odd[i]);
    }
  }
};
