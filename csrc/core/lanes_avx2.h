// Eight float32 lanes in one AVX2 register, for the float kernels (dense, norm, attention).
struct F8 {
  __m256 v;
};

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

// Copies bytes with stores that do not read the lines they replace. Bytes before
// and after the whole vectors of an aligned `to` are copied plainly.
inline void copy_around_cache(void* to, const void* from, std::int64_t bytes) {
  auto* out = static_cast<std::uint8_t*>(to);
  const auto* in = static_cast<const std::uint8_t*>(from);
  const auto head = static_cast<std::int64_t>(-reinterpret_cast<std::uintptr_t>(to) & 31u);
  std::int64_t done = head < bytes ? head : bytes;
  __builtin_memcpy(out, in, static_cast<std::size_t>(done));
  for (; done + 32 <= bytes; done += 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(out + done),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + done)));
  }
  __builtin_memcpy(out + done, in + done, static_cast<std::size_t>(bytes - done));
  _mm_sfence();
}
