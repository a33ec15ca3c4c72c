// A panel of i8 in plain C++.

constexpr int kPairPanels = 1;      // for one row
constexpr int kPairChains = 1;      // sums of a panel then
constexpr int kPairTilePanels = 1;  // for four rows

struct PairSums {
  std::int32_t row[i8::kRows];
};
struct PairCodes {
  const std::int8_t* block;
};

inline PairCodes load_pairs(const std::int8_t* block) { return {block}; }

inline void add_pairs(PairSums& sums, const PairCodes& codes, std::int32_t pair) {
  std::int16_t a[2];
  __builtin_memcpy(a, &pair, sizeof a);
  for (std::int64_t r = 0; r < i8::kRows; ++r) {
    sums.row[r] += codes.block[2 * r] * a[0] + codes.block[2 * r + 1] * a[1];
  }
}

inline void store_pairs(const PairSums& sums, std::int32_t* lanes) {
  __builtin_memcpy(lanes, sums.row, sizeof sums.row);
}
