// A panel of i8 in one AVX-512 register: bytes widened to int16, vpdpwssd with a pair of
// activations.

constexpr int kPairPanels = 1;      // for one row
constexpr int kPairChains = 4;      // sums of a panel then
constexpr int kPairTilePanels = 4;  // for four rows

struct PairSums {
  __m512i row;  // int32
};
struct PairCodes {
  __m512i row;  // int16
};

inline PairCodes load_pairs(const std::int8_t* block) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block)))};
}

inline void add_pairs(PairSums& sums, const PairCodes& codes, std::int32_t pair) {
  sums.row = _mm512_dpwssd_epi32(sums.row, codes.row, _mm512_set1_epi32(pair));
}

inline void store_pairs(const PairSums& sums, std::int32_t* lanes) {
  _mm512_storeu_si512(lanes, sums.row);
}
