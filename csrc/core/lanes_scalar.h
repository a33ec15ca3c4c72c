// Eight float32 lanes in plain C++, for instruction sets without a header of their own.
struct F8 {
  float v[8];
};

constexpr int kSharedHeads = 1;  // 1 or 4: heads that attention computes together

template <typename Operation>
inline F8 each(F8 a, F8 b, Operation operation) {
  F8 out;
  for (int i = 0; i < 8; ++i) out.v[i] = operation(a.v[i], b.v[i]);
  return out;
}

inline F8 splat(float x) { return {{x, x, x, x, x, x, x, x}}; }
inline F8 load(const float* p) {
  F8 out;
  for (int i = 0; i < 8; ++i) out.v[i] = p[i];
  return out;
}
inline void store(float* p, F8 a) {
  for (int i = 0; i < 8; ++i) p[i] = a.v[i];
}
inline F8 add(F8 a, F8 b) {
  return each(a, b, [](float x, float y) { return x + y; });
}
inline F8 sub(F8 a, F8 b) {
  return each(a, b, [](float x, float y) { return x - y; });
}
inline F8 mul(F8 a, F8 b) {
  return each(a, b, [](float x, float y) { return x * y; });
}
inline F8 div(F8 a, F8 b) {
  return each(a, b, [](float x, float y) { return x / y; });
}
inline F8 min(F8 a, F8 b) {
  return each(a, b, [](float x, float y) { return x < y ? x : y; });
}
inline F8 max(F8 a, F8 b) {
  return each(a, b, [](float x, float y) { return x > y ? x : y; });
}
inline F8 mul_add(F8 a, F8 b, F8 c) { return add(mul(a, b), c); }

inline F8 load_f16(const std::uint8_t* p) {
  F8 out;
  for (int i = 0; i < 8; ++i) out.v[i] = half::f16_to_f32(half::load_u16(p + 2 * i));
  return out;
}
inline void store_f16(std::uint8_t* p, F8 a) {
  for (int i = 0; i < 8; ++i) half::store_u16(p + 2 * i, half::f32_to_f16(a.v[i]));
}
inline F8 splat_f16(const std::uint8_t* p) { return splat(half::f16_to_f32(half::load_u16(p))); }
inline F8 load_bf16(const std::uint8_t* p) {
  F8 out;
  for (int i = 0; i < 8; ++i) out.v[i] = half::bf16_to_f32(half::load_u16(p + 2 * i));
  return out;
}
inline F8 load_s8(const std::uint8_t* p) {
  F8 out;
  for (int i = 0; i < 8; ++i) out.v[i] = static_cast<float>(static_cast<std::int8_t>(p[i]));
  return out;
}

// 2^n of lanes that hold n + 1.5 * 2^23, -126 <= n <= 127.
inline F8 exponent_of_biased(F8 a) {
  F8 out;
  for (int i = 0; i < 8; ++i) {
    const auto bits = __builtin_bit_cast(std::uint32_t, a.v[i]);
    out.v[i] = __builtin_bit_cast(float, (bits - (0x4b400000u - 127u)) << 23);
  }
  return out;
}

// Half to even, for finite numbers and the NaN without a payload.
inline void store_bf16(void* p, F8 a) {
  for (int i = 0; i < 8; ++i) {
    const auto bits = __builtin_bit_cast(std::uint32_t, a.v[i]);
    const auto word = static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    __builtin_memcpy(static_cast<char*>(p) + 2 * i, &word, sizeof word);
  }
}

// Eight float64 sums.
struct D8 {
  double v[8];
};

inline void add_abs(D8& sums, F8 a) {
  for (int i = 0; i < 8; ++i) sums.v[i] += static_cast<double>(__builtin_fabsf(a.v[i]));
}
inline void store(double* p, const D8& sums) {
  for (int i = 0; i < 8; ++i) p[i] = sums.v[i];
}

// Plain stores, where others write around the caches.
inline void stream(float* p, F8 a) { store(p, a); }
inline void stream_bf16(void* p, F8 a) { store_bf16(p, a); }
inline void finish_streams() {}
