// AVX2 tile of the ternary product: vpmaddubsw on unsigned codes and signed activations.
//
// One int16 lane of vpmaddubsw is two products, at most 2 * 2 * 128 = 512 in magnitude, and a block
// adds four of them: 15 blocks = 240 columns fit in int16, then the sums widen to int32. The limit
// is the multiplier, one vpmaddubsw per 32 multiply-adds.
//
// Tried and not faster here: multiplying fields 1 and 3 unshifted as 4 * code into sums of their
// own (halves the shifts, doubles the registers and the widening), two panels per pass, tiles of 2,
// 3, 5 and 6 rows. A byte-shuffle table lookup needs as many cycles in shuffles and widening adds.

constexpr std::int64_t kRunBlocks = 15;
constexpr int kGemvPanels = 1;
constexpr int kGemmPanels = 1;
constexpr int kGemmRows = 4;

// Rows 0..7 and 8..15 of a panel.
struct Acc {
  __m256i half[2];  // int32
};

struct Int16Sums {
  __m256i half[2];  // two int16 per row
};

template <int Rows>
using Partial = Int16Sums;

inline __m256i broadcast4(const std::int8_t* q) {
  std::int32_t four;
  __builtin_memcpy(&four, q, sizeof four);
  return _mm256_set1_epi32(four);
}

template <int Field, int Panels, int Rows>
inline void dot_field(Int16Sums (&partial)[Panels][Rows], const std::uint8_t* w,
                      std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
  for (int i = 0; i < Panels; ++i) {
    const auto* packed = reinterpret_cast<const __m256i*>(w + i * panel_bytes);
    __m256i codes[2];
    for (int h = 0; h < 2; ++h) {
      const __m256i shifted = _mm256_srli_epi16(_mm256_loadu_si256(packed + h), 2 * Field);
      codes[h] = _mm256_and_si256(shifted, _mm256_set1_epi8(3));
    }
    for (int j = 0; j < Rows; ++j) {
      const __m256i a = broadcast4(q + j * q_stride + 4 * Field);
      for (int h = 0; h < 2; ++h) {
        __m256i& sum = partial[i][j].half[h];
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes[h], a));
      }
    }
  }
}

template <int Panels, int Rows>
inline void dot_block(Int16Sums (&partial)[Panels][Rows], const std::uint8_t* w,
                      std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
  dot_field<0>(partial, w, panel_bytes, q, q_stride);
  dot_field<1>(partial, w, panel_bytes, q, q_stride);
  dot_field<2>(partial, w, panel_bytes, q, q_stride);
  dot_field<3>(partial, w, panel_bytes, q, q_stride);
}

inline void flush(Acc& acc, const Int16Sums& partial) {
  for (int h = 0; h < 2; ++h) {
    const __m256i wide = _mm256_madd_epi16(partial.half[h], _mm256_set1_epi16(1));
    acc.half[h] = _mm256_add_epi32(acc.half[h], wide);
  }
}

inline void store_lanes(const Acc& acc, std::int32_t (&lanes)[t2::kRows]) {
  for (int h = 0; h < 2; ++h) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + 8 * h), acc.half[h]);
  }
}
