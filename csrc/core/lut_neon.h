// Table lookup with tbl, 16 rows in a register. Low bytes are added as 16-bit words, which sums
// even rows and, 256 times, odd ones; the odd rows are also summed alone.
template <int Panels>
struct LutTile {
  static constexpr int kHalves = 2 * Panels;

  struct Sums {
    uint16x8_t words[kHalves], odd[kHalves];
    uint8x16_t high[kHalves];
  };

  static void block(Sums& sums, const std::uint8_t* w, std::int64_t panel_bytes,
                    const std::uint8_t* tables) {
    for (int pair = 0; pair < 2; ++pair) {
      const std::uint8_t* entries = tables + pair * lut::kTableBytes;
      const uint8x16_t low = vld1q_u8(entries), high = vld1q_u8(entries + lut::kTableBytes / 2);
      for (int h = 0; h < kHalves; ++h) {
        const uint8x16_t packed = vld1q_u8(w + h / 2 * panel_bytes + h % 2 * 16);
        const uint8x16_t index =
            pair == 0 ? vandq_u8(packed, vdupq_n_u8(15)) : vshrq_n_u8(packed, 4);
        const uint16x8_t found = vreinterpretq_u16_u8(vqtbl1q_u8(low, index));
        sums.words[h] = vaddq_u16(sums.words[h], found);
        sums.odd[h] = vsraq_n_u16(sums.odd[h], found, 8);
        sums.high[h] = vaddq_u8(sums.high[h], vqtbl1q_u8(high, index));
      }
    }
  }

  static void spread(const Sums& sums, std::int32_t (&even)[Panels][lut::kRows / 2],
                     std::int32_t (&odd)[Panels][lut::kRows / 2]) {
    for (int h = 0; h < kHalves; ++h) {
      std::uint16_t words[8], odd_low[8];
      std::uint8_t high[16];
      vst1q_u16(words, sums.words[h]);
      vst1q_u16(odd_low, sums.odd[h]);
      vst1q_u8(high, sums.high[h]);
      for (int r = 0; r < 8; ++r) {
        const auto even_low = static_cast<std::uint16_t>(words[r] - (odd_low[r] << 8));
        even[h / 2][h % 2 * 8 + r] += even_low + 256 * high[2 * r];
        odd[h / 2][h % 2 * 8 + r] += odd_low[r] + 256 * high[2 * r + 1];
      }
    }
  }
};
