// Sixteen float32 lanes in one AVX-512 register, for attention.
#include "lanes_eight.h"

struct F16 {
  __m512 v;
};

inline void store(float* p, F16 a) { _mm512_storeu_ps(p, a.v); }
inline F16 mul(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F16 mul_add(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

struct SixteenLanes {
  using Vector = F16;
  static constexpr int kCount = 16;

  static F16 splat_all(float x) { return {_mm512_set1_ps(x)}; }
  static F16 load_f32(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F16 load_half(const std::uint8_t* p) { return join(load_f16(p), load_f16(p + 16)); }
  static F16 load_bfloat(const std::uint8_t* p) { return join(load_bf16(p), load_bf16(p + 16)); }
  static F16 load_int8(const std::uint8_t* p) { return join(load_s8(p), load_s8(p + 8)); }

 private:
  static F16 join(F8 low, F8 high) {
    return {_mm512_insertf32x8(_mm512_castps256_ps512(low.v), high.v, 1)};
  }
};

using WidestLanes = SixteenLanes;
