// Eight float32 lanes in one AVX2 register, for the float kernels (dense, norm, attention).
struct F8 {
  __m256 v;
};

constexpr int kSharedHeads = 4;  // 1 or 4: heads that attention computes together

inline F8 splat(float x) { return {_mm256_set1_ps(x)}; }
inline F8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, F8 a) { _mm256_storeu_ps(p, a.v); }
inline F8 add(F8 a, F8 b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F8 sub(F8 a, F8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline F8 mul(F8 a, F8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F8 div(F8 a, F8 b) { return {_mm256_div_ps(a.v, b.v)}; }
inline F8 min(F8 a, F8 b) { return {_mm256_min_ps(a.v, b.v)}; }
inline F8 max(F8 a, F8 b) { return {_mm256_max_ps(a.v, b.v)}; }
inline F8 mul_add(F8 a, F8 b, F8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

inline F8 load_f16(const std::uint8_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline void store_f16(std::uint8_t* p, F8 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline F8 splat_f16(const std::uint8_t* p) {
  std::int16_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return {_mm256_cvtph_ps(_mm_set1_epi16(bits))};
}
inline F8 load_bf16(const std::uint8_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}
inline F8 load_s8(const std::uint8_t* p) {
  const __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_cvtepi32_ps(wide)};
}

// 2^n of lanes that hold n + 1.5 * 2^23, -126 <= n <= 127.
inline F8 exponent_of_biased(F8 a) {
  const __m256i n = _mm256_sub_epi32(_mm256_castps_si256(a.v), _mm256_set1_epi32(0x4b400000 - 127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(n, 23))};
}

// Half to even, for finite numbers and the NaN without a payload.
inline __m128i to_bf16(F8 a) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i words = _mm256_srli_epi32(rounded, 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
inline void store_bf16(void* p, F8 a) { _mm_storeu_si128(static_cast<__m128i*>(p), to_bf16(a)); }

// Stores that do not read the lines they replace, for aligned addresses; then finish_streams().
inline void stream(float* p, F8 a) { _mm256_stream_ps(p, a.v); }
inline void stream_bf16(void* p, F8 a) { _mm_stream_si128(static_cast<__m128i*>(p), to_bf16(a)); }
inline void finish_streams() { _mm_sfence(); }

// Eight float64 sums.
struct D8 {
  __m256d low, high;
};

inline void add_abs(D8& sums, F8 a) {
  const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v);
  sums.low = _mm256_add_pd(sums.low, _mm256_cvtps_pd(_mm256_castps256_ps128(size)));
  sums.high = _mm256_add_pd(sums.high, _mm256_cvtps_pd(_mm256_extractf128_ps(size, 1)));
}
inline void store(double* p, const D8& sums) {
  _mm256_storeu_pd(p, sums.low);
  _mm256_storeu_pd(p + 4, sums.high);
}
