// Tile of the ternary product in plain C++: the meaning of the others, and what runs where no
// better one does.

constexpr std::int64_t kRunBlocks = INT64_MAX / 2;
constexpr int kGemvPanels = 1;
constexpr int kGemmPanels = 1;
constexpr int kGemmRows = 4;

struct Acc {
  std::int32_t lane[t2::kRows];
};

template <int Rows>
using Partial = Acc;

template <int Panels, int Rows>
inline void dot_block(Acc (&partial)[Panels][Rows], const std::uint8_t* w, std::int64_t panel_bytes,
                      const std::int8_t* q, std::int64_t q_stride) {
  for (int i = 0; i < Panels; ++i) {
    for (int p = 0; p < 4; ++p) {
      std::int16_t codes[t2::kBlockBytes];
      for (int byte = 0; byte < t2::kBlockBytes; ++byte) {
        codes[byte] = static_cast<std::int16_t>((w[i * panel_bytes + byte] >> (2 * p)) & 3);
      }
      for (int j = 0; j < Rows; ++j) {
        const std::int8_t* a = q + j * q_stride + 4 * p;
        for (int r = 0; r < t2::kRows; ++r) {
          const std::int16_t* c = codes + 4 * r;
          partial[i][j].lane[r] += c[0] * a[0] + c[1] * a[1] + c[2] * a[2] + c[3] * a[3];
        }
      }
    }
  }
}

inline void flush(Acc& acc, const Acc& partial) {
  for (int r = 0; r < t2::kRows; ++r) acc.lane[r] += partial.lane[r];
}

inline void store_lanes(const Acc& acc, std::int32_t (&lanes)[t2::kRows]) {
  for (int r = 0; r < t2::kRows; ++r) lanes[r] = acc.lane[r];
}
