// 256-bit VNNI tiles of the ternary products: vpdpbusd straight into int32, two registers a panel.
// `dot4` is the instruction, whose encoding the includer chooses: VEX (AVX-VNNI) or EVEX.
//
// One row of t2: no shifts. Fields are masked where they are and feed sums that are 1, 4, 16 and 64
// times too large, as in tile_avx512vnni.h; eight chains of sums hide the latency of vpdpbusd.

constexpr std::int64_t kSplitRunBlocks = 4096;

constexpr int kGemmPanels = 1;
constexpr int kGemmRows = 6;

// The products of 32 codes and the activations of 4 columns.
inline void add_products(Acc& acc, int half, __m256i codes, __m256i a) {
  acc.half[half] = dot4(acc.half[half], codes, a);
}

struct SplitAcc {
  Acc field[4];
};

template <int Rows>
struct T2PartialOf {
  using Type = Acc;
};
template <>
struct T2PartialOf<1> {
  using Type = SplitAcc;
};

struct T2Tile {
  static constexpr std::int64_t kRunBlocks = kSplitRunBlocks;
  static constexpr int kGemvPanels = 1;
  template <int Rows>
  using Partial = typename T2PartialOf<Rows>::Type;

  static Acc total(const Acc& sums) { return sums; }
  static Acc total(const SplitAcc& sums) {
    Acc acc = sums.field[0];
    for (int field = 1; field < 4; ++field) {
      for (int h = 0; h < 2; ++h) {
        const __m256i exact = _mm256_srai_epi32(sums.field[field].half[h], 2 * field);
        acc.half[h] = _mm256_add_epi32(acc.half[h], exact);
      }
    }
    return acc;
  }

  template <int Panels>
  static void dot_block(SplitAcc (&partial)[Panels][1], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t) {
    for (int i = 0; i < Panels; ++i) {
      for (int h = 0; h < 2; ++h) {
        const __m256i packed = load_half(w + i * panel_bytes, h);
        for (int field = 0; field < 4; ++field) {
          const __m256i mask = _mm256_set1_epi8(static_cast<char>(3 << (2 * field)));
          add_products(partial[i][0].field[field], h, _mm256_and_si256(packed, mask),
                       broadcast4(q + 4 * field));
        }
      }
    }
  }

  template <int Field, int Panels, int Rows>
  static void dot_field(Acc (&partial)[Panels][Rows], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    for (int i = 0; i < Panels; ++i) {
      const std::uint8_t* block = w + i * panel_bytes;
      const __m256i codes[2] = {t2_codes<Field>(load_half(block, 0)),
                                t2_codes<Field>(load_half(block, 1))};
      for (int j = 0; j < Rows; ++j) {
        const __m256i a = broadcast4(q + j * q_stride + 4 * Field);
        for (int h = 0; h < 2; ++h) add_products(partial[i][j], h, codes[h], a);
      }
    }
  }

  template <int Panels, int Rows>
  static void dot_block(Acc (&partial)[Panels][Rows], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    dot_field<0>(partial, w, panel_bytes, q, q_stride);
    dot_field<1>(partial, w, panel_bytes, q, q_stride);
    dot_field<2>(partial, w, panel_bytes, q, q_stride);
    dot_field<3>(partial, w, panel_bytes, q, q_stride);
  }
};

struct T1Tile {
  static constexpr std::int64_t kRunBlocks = INT64_MAX;
  static constexpr int kGemvPanels = 2;
  template <int Rows>
  using Partial = Acc;

  static Acc total(const Acc& sums) { return sums; }

  template <int Panels, int Rows>
  static void dot_block(Acc (&partial)[Panels][Rows], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    for (int i = 0; i < Panels; ++i) {
      for (int h = 0; h < 2; ++h) {
        const Digits digits = t1_digits(load_half(w + i * panel_bytes, h));
        for (int p = 0; p < t1::kDigits; ++p) {
          for (int j = 0; j < Rows; ++j) {
            add_products(partial[i][j], h, digits.of[p], broadcast4(q + j * q_stride + 4 * p));
          }
        }
      }
    }
  }
};
