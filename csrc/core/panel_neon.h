// A panel in four NEON registers: its sums, its codes out of t2 and t1, and the products by sdot.
// Shared by the tiles with and without smmla.

constexpr int kQuads = 4;  // registers of a panel, four rows each

struct Acc {
  int32x4_t quad[kQuads];
};

inline void add(Acc& acc, const Acc& other) {
  for (int i = 0; i < kQuads; ++i) acc.quad[i] = vaddq_s32(acc.quad[i], other.quad[i]);
}

inline Acc load_lanes(const std::int32_t* lanes) {
  Acc acc;
  for (int i = 0; i < kQuads; ++i) acc.quad[i] = vld1q_s32(lanes + 4 * i);
  return acc;
}

inline void store_lanes(const Acc& acc, std::int32_t* lanes) {
  for (int i = 0; i < kQuads; ++i) vst1q_s32(lanes + 4 * i, acc.quad[i]);
}

inline int8x16_t broadcast4(const std::int8_t* q) {
  std::int32_t four;
  __builtin_memcpy(&four, q, sizeof four);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

template <int Field>
inline int8x16_t t2_codes(uint8x16_t packed) {
  // vshrq_n_u8 takes no shift of 0, and the last field has nothing above it.
  if constexpr (Field > 0) packed = vshrq_n_u8(packed, 2 * Field);
  if constexpr (Field < 3) packed = vandq_u8(packed, vdupq_n_u8(3));
  return vreinterpretq_s8_u8(packed);
}

// Adds the products of one field of t2 and the rows from First on.
template <int Field, int First, int Panels, int Rows>
inline void dot_t2_field(Acc (&sums)[Panels][Rows], const std::uint8_t* w, std::int64_t panel_bytes,
                         const std::int8_t* q, std::int64_t q_stride) {
  for (int i = 0; i < Panels; ++i) {
    for (int quad = 0; quad < kQuads; ++quad) {
      const int8x16_t codes = t2_codes<Field>(vld1q_u8(w + i * panel_bytes + 16 * quad));
      for (int j = First; j < Rows; ++j) {
        int32x4_t& sum = sums[i][j].quad[quad];
        sum = vdotq_s32(sum, codes, broadcast4(q + j * q_stride + 4 * Field));
      }
    }
  }
}

template <int First, int Panels, int Rows>
inline void dot_t2_block(Acc (&sums)[Panels][Rows], const std::uint8_t* w, std::int64_t panel_bytes,
                         const std::int8_t* q, std::int64_t q_stride) {
  dot_t2_field<0, First>(sums, w, panel_bytes, q, q_stride);
  dot_t2_field<1, First>(sums, w, panel_bytes, q, q_stride);
  dot_t2_field<2, First>(sums, w, panel_bytes, q, q_stride);
  dot_t2_field<3, First>(sums, w, panel_bytes, q, q_stride);
}

// Takes the digit of a place off 16 bytes that hold no higher one: two steps of "minus the place
// if that is not negative", as an unsigned minimum. Places are 1 modulo 4, so place * digit & 3 is
// the digit.
template <int Place>
inline uint8x16_t take_digit(uint8x16_t& rest) {
  static_assert(Place % 4 == 1);
  const uint8x16_t whole = rest;
  rest = vminq_u8(rest, vsubq_u8(rest, vdupq_n_u8(2 * Place)));
  rest = vminq_u8(rest, vsubq_u8(rest, vdupq_n_u8(Place)));
  return vandq_u8(vsubq_u8(whole, rest), vdupq_n_u8(3));
}

struct Digits {
  uint8x16_t of[t1::kDigits];
};

inline Digits t1_digits(uint8x16_t bytes) {
  static constexpr std::uint8_t kThirds[16] = {0, 0, 0, 1, 1, 1, 2, 2, 2};
  static constexpr std::uint8_t kRestOfThirds[16] = {0, 1, 2, 0, 1, 2, 0, 1, 2};
  Digits digits;
  digits.of[4] = take_digit<t1::kPlaces[4]>(bytes);
  digits.of[3] = take_digit<t1::kPlaces[3]>(bytes);
  digits.of[2] = take_digit<t1::kPlaces[2]>(bytes);
  digits.of[1] = vqtbl1q_u8(vld1q_u8(kThirds), bytes);
  digits.of[0] = vqtbl1q_u8(vld1q_u8(kRestOfThirds), bytes);
  return digits;
}

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
      for (int quad = 0; quad < kQuads; ++quad) {
        const Digits digits = t1_digits(vld1q_u8(w + i * panel_bytes + 16 * quad));
        for (int p = 0; p < t1::kDigits; ++p) {
          const int8x16_t codes = vreinterpretq_s8_u8(digits.of[p]);
          for (int j = 0; j < Rows; ++j) {
            int32x4_t& sum = partial[i][j].quad[quad];
            sum = vdotq_s32(sum, codes, broadcast4(q + j * q_stride + 4 * p));
          }
        }
      }
    }
  }
};

inline void unpack_t1(const std::uint8_t* from, std::uint8_t* to) {
  for (int quad = 0; quad < kQuads; ++quad) {
    uint8x16_t digits[4 * t1::kDigits];
    for (int b = 0; b < 4; ++b) {
      const Digits block = t1_digits(vld1q_u8(from + b * t2::kBlockBytes + 16 * quad));
      for (int p = 0; p < t1::kDigits; ++p) digits[b * t1::kDigits + p] = block.of[p];
    }
    for (int b = 0; b < t1::kDigits; ++b) {
      const uint8x16_t* d = digits + 4 * b;
      const uint8x16_t low = vorrq_u8(d[0], vshlq_n_u8(d[1], 2));
      const uint8x16_t high = vorrq_u8(d[2], vshlq_n_u8(d[3], 2));
      vst1q_u8(to + b * t2::kBlockBytes + 16 * quad, vorrq_u8(low, vshlq_n_u8(high, 4)));
    }
  }
}
