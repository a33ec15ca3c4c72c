// AVX2 tiles of the ternary products: vpmaddubsw on unsigned codes and signed activations.
//
// One int16 lane of vpmaddubsw is two products, at most 2 * 2 * 128 = 512 in magnitude, and a block
// adds four of them (t1: five): 15 (12) blocks = 240 columns fit in int16, then the sums widen to
// int32. The limit is the multiplier, one vpmaddubsw per 32 multiply-adds.
//
// Tried and not faster here: multiplying fields 1 and 3 unshifted as 4 * code into sums of their
// own (halves the shifts, doubles the registers and the widening), two panels per pass, tiles of 2,
// 3, 5 and 6 rows.

constexpr int kGemmPanels = 1;
constexpr int kGemmRows = 4;

struct Int16Sums {
  __m256i half[2];  // two int16 per row

  // The products of 32 codes and the activations of 4 columns.
  void add(int h, __m256i codes, __m256i a) {
    half[h] = _mm256_add_epi16(half[h], _mm256_maddubs_epi16(codes, a));
  }
};

inline Acc widen(const Int16Sums& sums) {
  Acc acc;
  for (int h = 0; h < 2; ++h) {
    acc.half[h] = _mm256_madd_epi16(sums.half[h], _mm256_set1_epi16(1));
  }
  return acc;
}

struct T2Tile {
  static constexpr std::int64_t kRunBlocks = 15;
  static constexpr int kGemvPanels = 1;
  template <int Rows>
  using Partial = Int16Sums;

  static Acc total(const Int16Sums& sums) { return widen(sums); }

  template <int Field, int Panels, int Rows>
  static void dot_field(Int16Sums (&partial)[Panels][Rows], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    for (int i = 0; i < Panels; ++i) {
      const std::uint8_t* block = w + i * panel_bytes;
      const __m256i codes[2] = {t2_codes<Field>(load_half(block, 0)),
                                t2_codes<Field>(load_half(block, 1))};
      for (int j = 0; j < Rows; ++j) {
        const __m256i a = broadcast4(q + j * q_stride + 4 * Field);
        for (int h = 0; h < 2; ++h) partial[i][j].add(h, codes[h], a);
      }
    }
  }

  template <int Panels, int Rows>
  static void dot_block(Int16Sums (&partial)[Panels][Rows], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    dot_field<0>(partial, w, panel_bytes, q, q_stride);
    dot_field<1>(partial, w, panel_bytes, q, q_stride);
    dot_field<2>(partial, w, panel_bytes, q, q_stride);
    dot_field<3>(partial, w, panel_bytes, q, q_stride);
  }
};

struct T1Tile {
  static constexpr std::int64_t kRunBlocks = 12;
  static constexpr int kGemvPanels = 1;
  template <int Rows>
  using Partial = Int16Sums;

  static Acc total(const Int16Sums& sums) { return widen(sums); }

  template <int Panels, int Rows>
  static void dot_block(Int16Sums (&partial)[Panels][Rows], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    for (int i = 0; i < Panels; ++i) {
      for (int h = 0; h < 2; ++h) {
        const Digits digits = t1_digits(load_half(w + i * panel_bytes, h));
        for (int p = 0; p < t1::kDigits; ++p) {
          for (int j = 0; j < Rows; ++j) {
            partial[i][j].add(h, digits.of[p], broadcast4(q + j * q_stride + 4 * p));
          }
        }
      }
    }
  }
};
