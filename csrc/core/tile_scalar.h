// Tiles of the ternary products in plain C++: the meaning of the others, and what runs where no
// better ones do.

constexpr int kGemmPanels = 1;
constexpr int kGemmRows = 4;

struct Acc {
  std::int32_t lane[t2::kRows];
};

inline void add(Acc& acc, const Acc& other) {
  for (int r = 0; r < t2::kRows; ++r) acc.lane[r] += other.lane[r];
}

inline Acc load_lanes(const std::int32_t* lanes) {
  Acc acc;
  for (int r = 0; r < t2::kRows; ++r) acc.lane[r] = lanes[r];
  return acc;
}

inline void store_lanes(const Acc& acc, std::int32_t* lanes) {
  for (int r = 0; r < t2::kRows; ++r) lanes[r] = acc.lane[r];
}

// The products of four columns: `codes` has four to a row.
template <int Rows>
inline void add_products(Acc (&partial)[Rows], const std::int16_t* codes, const std::int8_t* q,
                         std::int64_t q_stride) {
  for (int j = 0; j < Rows; ++j) {
    const std::int8_t* a = q + j * q_stride;
    for (int r = 0; r < t2::kRows; ++r) {
      const std::int16_t* c = codes + 4 * r;
      partial[j].lane[r] += c[0] * a[0] + c[1] * a[1] + c[2] * a[2] + c[3] * a[3];
    }
  }
}

struct T2Tile {
  static constexpr std::int64_t kRunBlocks = INT64_MAX;
  static constexpr int kGemvPanels = 1;
  template <int Rows>
  using Partial = Acc;

  static Acc total(const Acc& sums) { return sums; }

  template <int Panels, int Rows>
  static void dot_block(Acc (&partial)[Panels][Rows], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    for (int i = 0; i < Panels; ++i) {
      for (int p = 0; p < 4; ++p) {
        std::int16_t codes[t2::kBlockBytes];
        for (int byte = 0; byte < t2::kBlockBytes; ++byte) {
          codes[byte] = static_cast<std::int16_t>((w[i * panel_bytes + byte] >> (2 * p)) & 3);
        }
        add_products(partial[i], codes, q + 4 * p, q_stride);
      }
    }
  }
};

struct T1Tile {
  static constexpr std::int64_t kRunBlocks = INT64_MAX;
  static constexpr int kGemvPanels = 1;
  template <int Rows>
  using Partial = Acc;

  static Acc total(const Acc& sums) { return sums; }

  template <int Panels, int Rows>
  static void dot_block(Acc (&partial)[Panels][Rows], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    for (int i = 0; i < Panels; ++i) {
      for (int p = 0; p < t1::kDigits; ++p) {
        std::int16_t codes[t2::kBlockBytes];
        for (int byte = 0; byte < t2::kBlockBytes; ++byte) {
          const unsigned digits = t1::kDigitTable.of[w[i * panel_bytes + byte]];
          codes[byte] = static_cast<std::int16_t>((digits >> (2 * p)) & 3u);
        }
        add_products(partial[i], codes, q + 4 * p, q_stride);
      }
    }
  }
};

inline void unpack_t1(const std::uint8_t* from, std::uint8_t* to) {
  constexpr int kGroup = 4;
  for (int byte = 0; byte < t2::kBlockBytes; ++byte) {
    std::uint64_t fields = 0;
    for (int b = 0; b < kGroup; ++b) {
      const std::uint64_t digits = t1::kDigitTable.of[from[b * t2::kBlockBytes + byte]] & 0x3ffu;
      fields |= digits << (2 * t1::kDigits * b);
    }
    for (int b = 0; b < t1::kDigits; ++b) {
      to[b * t2::kBlockBytes + byte] = static_cast<std::uint8_t>(fields >> (8 * b));
    }
  }
}
