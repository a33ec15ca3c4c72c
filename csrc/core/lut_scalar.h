// Table lookup in plain C++.
template <int Panels>
struct LutTile {
  struct Sums {
    std::int32_t row[Panels][lut::kRows];
  };

  static void block(Sums& sums, const std::uint8_t* w, std::int64_t panel_bytes,
                    const std::uint8_t* tables) {
    constexpr int kHigh = lut::kTableBytes / 2;
    const std::uint8_t* second = tables + lut::kTableBytes;
    for (int i = 0; i < Panels; ++i) {
      for (int r = 0; r < lut::kRows; ++r) {
        const int byte = w[i * panel_bytes + r];
        const std::uint8_t* one = tables + (byte & 15);
        const std::uint8_t* two = second + (byte >> 4);
        sums.row[i][r] += one[0] + two[0] + 256 * (one[kHigh] + two[kHigh]);
      }
    }
  }

  static void spread(const Sums& sums, std::int32_t (&even)[Panels][lut::kRows / 2],
                     std::int32_t (&odd)[Panels][lut::kRows / 2]) {
    for (int i = 0; i < Panels; ++i) {
      for (int r = 0; r < lut::kRows / 2; ++r) {
        even[i][r] += sums.row[i][2 * r];
        odd[i][r] += sums.row[i][2 * r + 1];
      }
    }
  }
};
