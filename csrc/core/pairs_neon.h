// A panel of i8 in NEON registers: bytes widened to int16, products of a pair added pairwise.

constexpr int kPairPanels = 1;      // for one row
constexpr int kPairChains = 1;      // sums of a panel then
constexpr int kPairTilePanels = 1;  // for four rows

struct PairSums {
  int32x4_t quad[4];
};
struct PairCodes {
  int16x8_t quad[4];
};

inline PairCodes load_pairs(const std::int8_t* block) {
  PairCodes codes;
  for (int i = 0; i < 4; ++i) codes.quad[i] = vmovl_s8(vld1_s8(block + 8 * i));
  return codes;
}

inline void add_pairs(PairSums& sums, const PairCodes& codes, std::int32_t pair) {
  const int16x8_t a = vreinterpretq_s16_s32(vdupq_n_s32(pair));
  for (int i = 0; i < 4; ++i) {
    const int32x4_t low = vmull_s16(vget_low_s16(codes.quad[i]), vget_low_s16(a));
    const int32x4_t high = vmull_high_s16(codes.quad[i], a);
    sums.quad[i] = vaddq_s32(sums.quad[i], vpaddq_s32(low, high));
  }
}

inline void store_pairs(const PairSums& sums, std::int32_t* lanes) {
  for (int i = 0; i < 4; ++i) vst1q_s32(lanes + 4 * i, sums.quad[i]);
}
