// Quantize-dequantize for training, blended by lambda: v + lambda * (Q(v) - v). Plain loops,
// vectorised by the compiler for each instruction set; float32 and bfloat16.
//
// Roofline: memory. A result that does not fit the caches anyway is written around them
// (copy_around_cache of lanes_*.h), which saves reading every line before it is overwritten.

struct Bf16 {
  std::uint16_t bits;
};

inline float widen(float v) { return v; }
inline float widen(Bf16 v) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(v.bits) << 16);
}

template <class T>
inline T narrow(float v);
template <>
inline float narrow<float>(float v) {
  return v;
}
// Half to even; a NaN stays one.
template <>
inline Bf16 narrow<Bf16>(float v) {
  const std::uint32_t bits = float_bits(v);
  const std::uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  const bool is_nan = (bits & 0x7fffffffu) > kInfinityBits;
  return {static_cast<std::uint16_t>((is_nan ? bits | 0x400000u : rounded) >> 16)};
}

// Elements computed at a time: what lies between the loop and the write around the caches.
constexpr std::int64_t kFakeQuantChunk = 1024;

// Calls fill(to, first, n) for chunks of `out`.
template <class T, class Fill>
inline void in_chunks(std::int64_t count, bool around_cache, T* out, const Fill& fill) {
  if (!around_cache) return fill(out, std::int64_t{0}, count);
  alignas(64) T chunk[kFakeQuantChunk];
  for (std::int64_t first = 0; first < count; first += kFakeQuantChunk) {
    const std::int64_t left = count - first;
    const std::int64_t n = left < kFakeQuantChunk ? left : kFakeQuantChunk;
    fill(chunk, first, n);
    copy_around_cache(out + first, chunk, n * static_cast<std::int64_t>(sizeof(T)));
  }
}

template <class T>
inline void fake_quant_weights(const T* w, std::int64_t count, float scale, float lambda,
                               bool around_cache, T* out) {
  const float inverse = 1.0f / scale;
  in_chunks(count, around_cache, out, [=](T* to, std::int64_t first, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const float v = widen(w[first + i]);
      float code = v * inverse;
      code = code < -1.0f ? -1.0f : code;
      code = code > 1.0f ? 1.0f : code;
      code = (code + kRoundBias) - kRoundBias;
      const float q = code * scale;
      to[i] = narrow<T>(lambda == 1.0f ? q : v + lambda * (q - v));
    }
  });
}

template <class T>
inline void fake_quant_rows(const T* x, std::int64_t rows, std::int64_t k, float lambda,
                            bool around_cache, T* out) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* v_row = x + r * k;
    std::int32_t most = 0;
    for (std::int64_t i = 0; i < k; ++i) {
      const auto bits = static_cast<std::int32_t>(float_bits(widen(v_row[i])) & 0x7fffffffu);
      most = bits > most ? bits : most;
    }
    const bool is_finite = static_cast<std::uint32_t>(most) < kInfinityBits;
    const float absmax = __builtin_bit_cast(float, most);
    const float a = absmax > kMinAbsMax ? absmax : kMinAbsMax;
    const float inverse = 127.0f / a;
    const float step = is_finite ? a / 127.0f : __builtin_nanf("");
    in_chunks(k, around_cache, out + r * k, [=](T* to, std::int64_t first, std::int64_t n) {
      for (std::int64_t i = 0; i < n; ++i) {
        const float v = widen(v_row[first + i]);
        const float q = ((v * inverse + kRoundBias) - kRoundBias) * step;
        to[i] = narrow<T>(lambda == 1.0f ? q : v + lambda * (q - v));
      }
    });
  }
}

void fake_quant_ternary(const void* w, TrainType type, std::int64_t count, float scale,
                        float lambda, bool around_cache, void* out) noexcept {
  if (type == TrainType::f32) {
    fake_quant_weights(static_cast<const float*>(w), count, scale, lambda, around_cache,
                       static_cast<float*>(out));
  } else {
    fake_quant_weights(static_cast<const Bf16*>(w), count, scale, lambda, around_cache,
                       static_cast<Bf16*>(out));
  }
}

void fake_quant_act(const void* x, TrainType type, std::int64_t rows, std::int64_t k, float lambda,
                    bool around_cache, void* out) noexcept {
  if (type == TrainType::f32) {
    fake_quant_rows(static_cast<const float*>(x), rows, k, lambda, around_cache,
                    static_cast<float*>(out));
  } else {
    fake_quant_rows(static_cast<const Bf16*>(x), rows, k, lambda, around_cache,
                    static_cast<Bf16*>(out));
  }
}
