// AVX-512 VNNI tile of the ternary product: vpdpbusd on unsigned codes and signed activations, one
// 512-bit register for a whole panel.
//
// One row: no shifts. The four 2-bit fields are masked where they are and feed four sums that are
// 1, 4, 16 and 64 times too large; exact arithmetic shifts remove the factors once per run. ANDs
// are free beside vpdpbusd, shifts are not. 64 * 2 * 128 * 4 per block and lane: 4096 blocks stay
// below 2^31. Many rows: fields are shifted down once and serve every row of the tile, four panels
// x six rows of sums fill 24 of the 32 registers.

constexpr std::int64_t kRunBlocks = 4096;
constexpr int kGemvPanels = 4;
constexpr int kGemmPanels = 4;
constexpr int kGemmRows = 6;

struct Acc {
  __m512i row;  // int32
};

struct SplitSums {
  __m512i field[4];
};

template <int Rows>
struct PartialOf {
  using Type = Acc;
};
template <>
struct PartialOf<1> {
  using Type = SplitSums;
};
template <int Rows>
using Partial = typename PartialOf<Rows>::Type;

inline __m512i broadcast4(const std::int8_t* q) {
  std::int32_t four;
  __builtin_memcpy(&four, q, sizeof four);
  return _mm512_set1_epi32(four);
}

template <int Panels>
inline void dot_block(SplitSums (&partial)[Panels][1], const std::uint8_t* w,
                      std::int64_t panel_bytes, const std::int8_t* q, std::int64_t) {
  for (int i = 0; i < Panels; ++i) {
    const __m512i packed = _mm512_loadu_si512(w + i * panel_bytes);
    for (int field = 0; field < 4; ++field) {
      const __m512i mask = _mm512_set1_epi8(static_cast<char>(3 << (2 * field)));
      __m512i& sum = partial[i][0].field[field];
      sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(packed, mask), broadcast4(q + 4 * field));
    }
  }
}

template <int Panels, int Rows>
inline void dot_block(Acc (&partial)[Panels][Rows], const std::uint8_t* w, std::int64_t panel_bytes,
                      const std::int8_t* q, std::int64_t q_stride) {
  for (int field = 0; field < 4; ++field) {
    __m512i codes[Panels];
    for (int i = 0; i < Panels; ++i) {
      const __m512i packed = _mm512_loadu_si512(w + i * panel_bytes);
      const __m512i shifted = _mm512_srli_epi16(packed, static_cast<unsigned>(2 * field));
      codes[i] = _mm512_and_si512(shifted, _mm512_set1_epi8(3));
    }
    for (int j = 0; j < Rows; ++j) {
      const __m512i a = broadcast4(q + j * q_stride + 4 * field);
      for (int i = 0; i < Panels; ++i) {
        partial[i][j].row = _mm512_dpbusd_epi32(partial[i][j].row, codes[i], a);
      }
    }
  }
}

inline void flush(Acc& acc, const Acc& partial) {
  acc.row = _mm512_add_epi32(acc.row, partial.row);
}

inline void flush(Acc& acc, const SplitSums& partial) {
  const __m512i first = _mm512_add_epi32(partial.field[0], _mm512_srai_epi32(partial.field[1], 2));
  const __m512i second = _mm512_add_epi32(_mm512_srai_epi32(partial.field[2], 4),
                                          _mm512_srai_epi32(partial.field[3], 6));
  acc.row = _mm512_add_epi32(acc.row, _mm512_add_epi32(first, second));
}

inline void store_lanes(const Acc& acc, std::int32_t (&lanes)[t2::kRows]) {
  _mm512_storeu_si512(lanes, acc.row);
}
