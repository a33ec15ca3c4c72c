// A panel of i8 in AVX2 registers: bytes widened to int16, vpmaddwd with a pair of activations.

constexpr int kPairPanels = 1;      // for one row
constexpr int kPairChains = 4;      // sums of a panel then
constexpr int kPairTilePanels = 1;  // for four rows

struct PairSums {
  __m256i half[2];  // int32, rows 0..7 and 8..15
};
struct PairCodes {
  __m256i half[2];  // int16
};

inline PairCodes load_pairs(const std::int8_t* block) {
  const auto* from = reinterpret_cast<const __m128i*>(block);
  return {{_mm256_cvtepi8_epi16(_mm_loadu_si128(from)),
           _mm256_cvtepi8_epi16(_mm_loadu_si128(from + 1))}};
}

inline void add_pairs(PairSums& sums, const PairCodes& codes, std::int32_t pair) {
  const __m256i a = _mm256_set1_epi32(pair);
  for (int h = 0; h < 2; ++h) {
    sums.half[h] = _mm256_add_epi32(sums.half[h], _mm256_madd_epi16(codes.half[h], a));
  }
}

inline void store_pairs(const PairSums& sums, std::int32_t* lanes) {
  for (int h = 0; h < 2; ++h) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + 8 * h), sums.half[h]);
  }
}
