// Int8 matrix-multiply tiles of the ternary products: smmla, two rows of weights x two rows of
// activations x 8 columns per instruction, twice the multiply-adds of sdot.
//
// Two fields of t2, zipped by 32 bits, are 8 columns of two weight rows. The four sums of smmla
// belong to both activation rows; they are kept as they come and sorted once per run. A row without
// a partner, and so a single row, goes through sdot, which would do no better as half a smmla.
//
// Six rows: 24 of the 32 registers are sums and 3 activations. Unpacking takes 10 instructions per
// 12 smmla; it is what keeps smmla from doubling the speed.

constexpr int kGemmPanels = 1;
constexpr int kGemmRows = 6;

// Eight columns of two rows of activations.
inline int8x16_t load_two_rows(const std::int8_t* q, std::int64_t q_stride) {
  return vcombine_s8(vld1_s8(q), vld1_s8(q + q_stride));
}

// The columns 8 * Half .. 8 * Half + 7 of four weight rows, two rows in each register.
template <int Half>
inline int8x16x2_t t2_row_pairs(uint8x16_t packed) {
  const int32x4_t left = vreinterpretq_s32_s8(t2_codes<2 * Half>(packed));
  const int32x4_t right = vreinterpretq_s32_s8(t2_codes<2 * Half + 1>(packed));
  return {{vreinterpretq_s8_s32(vzip1q_s32(left, right)),
           vreinterpretq_s8_s32(vzip2q_s32(left, right))}};
}

struct T2Tile {
  static constexpr std::int64_t kRunBlocks = INT64_MAX;
  static constexpr int kGemvPanels = 2;
  template <int Rows>
  using Partial = Acc;

  static Acc total(const Acc& sums) { return sums; }

  // Of the activation rows 2j and 2j + 1, partial[i][2j] gets the sums of the first two weight rows
  // of each quad and partial[i][2j + 1] those of the other two.
  template <int Half, int Panels, int Rows>
  static void dot_half(Acc (&partial)[Panels][Rows], const std::uint8_t* w,
                       std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    int8x16_t a[Rows / 2];
    for (int j = 0; j < Rows / 2; ++j) {
      a[j] = load_two_rows(q + 2 * j * q_stride + 8 * Half, q_stride);
    }
    for (int i = 0; i < Panels; ++i) {
      for (int quad = 0; quad < kQuads; ++quad) {
        const int8x16x2_t codes = t2_row_pairs<Half>(vld1q_u8(w + i * panel_bytes + 16 * quad));
        for (int j = 0; j < Rows / 2; ++j) {
          int32x4_t& first = partial[i][2 * j].quad[quad];
          int32x4_t& second = partial[i][2 * j + 1].quad[quad];
          first = vmmlaq_s32(first, codes.val[0], a[j]);
          second = vmmlaq_s32(second, codes.val[1], a[j]);
        }
      }
    }
  }

  template <int Panels, int Rows>
  static void dot_block(Acc (&partial)[Panels][Rows], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    if constexpr (Rows > 1) {
      dot_half<0>(partial, w, panel_bytes, q, q_stride);
      // Loads the packed bytes again: kept, they would take registers that the sums need.
      __asm__ volatile("" ::: "memory");
      dot_half<1>(partial, w, panel_bytes, q, q_stride);
    }
    if constexpr (Rows % 2 == 1) dot_t2_block<Rows - 1>(partial, w, panel_bytes, q, q_stride);
  }

  template <int Panels, int Rows>
  static void separate_rows(Acc (&partial)[Panels][Rows]) {
    for (int i = 0; i < Panels; ++i) {
      for (int j = 0; j + 1 < Rows; j += 2) {
        for (int quad = 0; quad < kQuads; ++quad) {
          int32x4_t& first = partial[i][j].quad[quad];
          int32x4_t& second = partial[i][j + 1].quad[quad];
          const int32x4_t of_first = vuzp1q_s32(first, second);
          second = vuzp2q_s32(first, second);
          first = of_first;
        }
      }
    }
  }
};
