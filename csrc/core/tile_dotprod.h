// Armv8.2 dot-product tiles of the ternary products: sdot, four rows of a panel per 128-bit
// register.

constexpr int kGemmPanels = 1;
constexpr int kGemmRows = 4;

struct T2Tile {
  static constexpr std::int64_t kRunBlocks = INT64_MAX;
  static constexpr int kGemvPanels = 2;
  template <int Rows>
  using Partial = Acc;

  static Acc total(const Acc& sums) { return sums; }

  template <int Panels, int Rows>
  static void dot_block(Acc (&partial)[Panels][Rows], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    dot_t2_block<0>(partial, w, panel_bytes, q, q_stride);
  }
};
