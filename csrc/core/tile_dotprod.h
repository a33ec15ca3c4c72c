// Armv8.2 dot-product tile of the ternary product: sdot, four rows of a panel per 128-bit register.

constexpr std::int64_t kRunBlocks = INT64_MAX / 2;
constexpr int kGemvPanels = 2;
constexpr int kGemmPanels = 1;
constexpr int kGemmRows = 4;

struct Acc {
  int32x4_t quad[4];
};

template <int Rows>
using Partial = Acc;

inline int8x16_t broadcast4(const std::int8_t* q) {
  std::int32_t four;
  __builtin_memcpy(&four, q, sizeof four);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

template <int Field>
inline int8x16_t codes(uint8x16_t packed) {
  // vshrq_n_u8 takes no shift of 0.
  if constexpr (Field > 0) packed = vshrq_n_u8(packed, 2 * Field);
  return vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(3)));
}

template <int Field, int Panels, int Rows>
inline void dot_field(Acc (&partial)[Panels][Rows], const std::uint8_t* w, std::int64_t panel_bytes,
                      const std::int8_t* q, std::int64_t q_stride) {
  for (int i = 0; i < Panels; ++i) {
    for (int quad = 0; quad < 4; ++quad) {
      const int8x16_t c = codes<Field>(vld1q_u8(w + i * panel_bytes + 16 * quad));
      for (int j = 0; j < Rows; ++j) {
        int32x4_t& sum = partial[i][j].quad[quad];
        sum = vdotq_s32(sum, c, broadcast4(q + j * q_stride + 4 * Field));
      }
    }
  }
}

template <int Panels, int Rows>
inline void dot_block(Acc (&partial)[Panels][Rows], const std::uint8_t* w, std::int64_t panel_bytes,
                      const std::int8_t* q, std::int64_t q_stride) {
  dot_field<0>(partial, w, panel_bytes, q, q_stride);
  dot_field<1>(partial, w, panel_bytes, q, q_stride);
  dot_field<2>(partial, w, panel_bytes, q, q_stride);
  dot_field<3>(partial, w, panel_bytes, q, q_stride);
}

inline void flush(Acc& acc, const Acc& partial) {
  for (int quad = 0; quad < 4; ++quad) {
    acc.quad[quad] = vaddq_s32(acc.quad[quad], partial.quad[quad]);
  }
}

inline void store_lanes(const Acc& acc, std::int32_t (&lanes)[t2::kRows]) {
  for (int quad = 0; quad < 4; ++quad) vst1q_s32(lanes + 4 * quad, acc.quad[quad]);
}
