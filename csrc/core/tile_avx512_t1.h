// AVX-512 VNNI tile of t1, over the T1Decoder of t1_decode_avx512*.h.

struct T1Tile {
  static constexpr std::int64_t kRunBlocks = kSplitRunBlocks;
  static constexpr int kGemvPanels = 1;
  template <int Rows>
  using Partial = typename PartialOf<T1Decoder::kParts, Rows>::Type;

  static Acc total(const Acc& sums) { return sums; }
  static Acc total(const SplitSums<T1Decoder::kParts>& sums) { return T1Decoder::total(sums); }

  template <int Panels>
  static void dot_block(SplitSums<T1Decoder::kParts> (&partial)[Panels][1], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t) {
    for (int i = 0; i < Panels; ++i) {
      T1Decoder::dot(partial[i][0], _mm512_loadu_si512(w + i * panel_bytes), q);
    }
  }

  template <int Panels, int Rows>
  static void dot_block(Acc (&partial)[Panels][Rows], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    for (int i = 0; i < Panels; ++i) {
      const Digits digits = T1Decoder::digits(_mm512_loadu_si512(w + i * panel_bytes));
      for (int p = 0; p < t1::kDigits; ++p) {
        for (int j = 0; j < Rows; ++j) {
          const __m512i a = broadcast4(q + j * q_stride + 4 * p);
          partial[i][j].row = _mm512_dpbusd_epi32(partial[i][j].row, digits.of[p], a);
        }
      }
    }
  }
};

inline void unpack_t1(const std::uint8_t* from, std::uint8_t* to) {
  __m512i digits[4 * t1::kDigits];
  for (int b = 0; b < 4; ++b) {
    const Digits block = T1Decoder::digits(_mm512_loadu_si512(from + b * t2::kBlockBytes));
    for (int p = 0; p < t1::kDigits; ++p) digits[b * t1::kDigits + p] = block.of[p];
  }
  for (int b = 0; b < t1::kDigits; ++b) {
    // Digits are below 3: fields never reach into each other's bits.
    const __m512i* d = digits + 4 * b;
    const __m512i low = _mm512_or_si512(d[0], _mm512_slli_epi16(d[1], 2));
    const __m512i high = _mm512_or_si512(d[2], _mm512_slli_epi16(d[3], 2));
    _mm512_storeu_si512(to + b * t2::kBlockBytes, _mm512_or_si512(low, _mm512_slli_epi16(high, 4)));
  }
}
