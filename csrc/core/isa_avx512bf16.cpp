// Pair products with vdpbf16ps (AVX512-BF16); pairs.h has the layout.
//
// A tile is 8 columns of A times two panels of B: 16 sums that do not wait for each other, and 10
// loads beside 16 products. In a loop of nothing else tiles of 14 x 2, 8 x 3, 6 x 4 and 4 x 4
// registers all reach 225 GFLOP/s on a core of a Zen 4.
#include <immintrin.h>

#include <cstdint>

#include "pairs.h"

namespace wf {
namespace {

constexpr int kTileRows = 8;

inline __mmask32 first_mask(std::int64_t columns) {
  return columns >= 32 ? ~0u : (1u << columns) - 1u;
}

// 16 columns of two rows of bfloat16, turned into 16 pairs.
inline __m512i pair(__m256i even, __m256i odd) {
  const __m512i low = _mm512_cvtepu16_epi32(even), high = _mm512_cvtepu16_epi32(odd);
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

void pack_bf16(const std::uint16_t* x, std::int64_t stride, std::int64_t rows, std::int64_t columns,
               std::uint32_t* panel) noexcept {
  const auto mask = static_cast<__mmask16>(first_mask(columns));
  for (std::int64_t row = 0; row < rows; row += 2, panel += kPairColumns) {
    const __m256i even = _mm256_maskz_loadu_epi16(mask, x + row * stride);
    const auto odd_mask = row + 1 < rows ? mask : __mmask16{0};
    const __m256i odd = _mm256_maskz_loadu_epi16(odd_mask, x + (row + 1) * stride);
    _mm512_storeu_si512(panel, pair(even, odd));
  }
}

inline __m256i scaled(__mmask16 mask, const std::int8_t* q, float scale) {
  const __m512 codes = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, q)));
  return __builtin_bit_cast(__m256i,
                            _mm512_cvtneps_pbh(_mm512_mul_ps(codes, _mm512_set1_ps(scale))));
}

void pack_s8(const std::int8_t* q, std::int64_t stride, const float* scale, std::int64_t rows,
             std::int64_t columns, std::uint32_t* panel) noexcept {
  const auto mask = static_cast<__mmask16>(first_mask(columns));
  for (std::int64_t row = 0; row < rows; row += 2, panel += kPairColumns) {
    const __m256i even = scaled(mask, q + row * stride, scale[row]);
    __m256i odd = _mm256_setzero_si256();
    if (row + 1 < rows) odd = scaled(mask, q + (row + 1) * stride, scale[row + 1]);
    _mm512_storeu_si512(panel, pair(even, odd));
  }
}

template <int Panels>
inline void multiply_tile(const std::uint32_t* a, const std::uint32_t* b, std::int64_t pairs,
                          std::int64_t n, std::int64_t k, bool is_added, float* c,
                          std::int64_t c_stride) {
  __m512 sums[kTileRows][Panels];
  for (auto& row : sums) {
    for (__m512& sum : row) sum = _mm512_setzero_ps();
  }
  for (std::int64_t p = 0; p < pairs; ++p) {
    __m512bh columns[Panels];
    for (int j = 0; j < Panels; ++j) {
      const __m512i words = _mm512_loadu_si512(b + (j * pairs + p) * kPairColumns);
      columns[j] = __builtin_bit_cast(__m512bh, words);
    }
    for (int i = 0; i < kTileRows; ++i) {
      const __m512i word = _mm512_set1_epi32(static_cast<int>(a[p * kPairColumns + i]));
      for (int j = 0; j < Panels; ++j) {
        sums[i][j] = _mm512_dpbf16_ps(sums[i][j], __builtin_bit_cast(__m512bh, word), columns[j]);
      }
    }
  }
  for (int i = 0; i < kTileRows && i < n; ++i) {
    for (int j = 0; j < Panels; ++j) {
      const auto mask = static_cast<__mmask16>(first_mask(k - j * kPairColumns));
      float* to = c + i * c_stride + j * kPairColumns;
      const __m512 before = is_added ? _mm512_maskz_loadu_ps(mask, to) : _mm512_setzero_ps();
      _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(before, sums[i][j]));
    }
  }
}

void multiply(const std::uint32_t* a, const std::uint32_t* b, std::int64_t pairs, std::int64_t n,
              std::int64_t k, bool is_added, float* c, std::int64_t c_stride) noexcept {
  const std::int64_t panel = pairs * kPairColumns;
  for (std::int64_t row = 0; row < n; row += kTileRows) {
    float* to = c + row * c_stride;
    std::int64_t j = 0;
    for (; k - j > kPairColumns; j += 2 * kPairColumns) {
      multiply_tile<2>(a + row, b + j / kPairColumns * panel, pairs, n - row, k - j, is_added,
                       to + j, c_stride);
    }
    if (j < k) {
      multiply_tile<1>(a + row, b + j / kPairColumns * panel, pairs, n - row, k - j, is_added,
                       to + j, c_stride);
    }
  }
}

}  // namespace

extern const PairKernels kAvx512Bf16Pairs;
const PairKernels kAvx512Bf16Pairs = {pack_bf16, pack_s8, multiply};
}  // namespace wf
