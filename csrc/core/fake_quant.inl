// Quantize-dequantize for training, blended by lambda: v + lambda * (Q(v) - v), for float32 and
// bfloat16, on the eight lanes of lanes_*.h.
//
// Roofline: memory. A result that does not fit the caches anyway is written around them, which
// saves reading every line before it is overwritten.
//
// Plain loops were tried: gcc 12 leaves the clamp scalar, four times slower.

struct Bf16 {
  std::uint16_t bits;
};

inline F8 load8(const float* p) { return load(p); }
inline F8 load8(const Bf16* p) { return load_bf16(reinterpret_cast<const std::uint8_t*>(p)); }
inline void store8(float* p, F8 a) { store(p, a); }
inline void store8(Bf16* p, F8 a) { store_bf16(p, a); }
inline void stream8(float* p, F8 a) { stream(p, a); }
inline void stream8(Bf16* p, F8 a) { stream_bf16(p, a); }

// to[i] = function(from[i]) for less than eight elements.
template <class T, class Function>
inline void map_rest(const T* from, std::int64_t count, T* to, const Function& function) {
  const auto bytes = static_cast<std::size_t>(count) * sizeof(T);
  T lanes[8] = {};
  __builtin_memcpy(lanes, from, bytes);
  store8(lanes, function(load8(lanes)));
  __builtin_memcpy(to, lanes, bytes);
}

// to[i] = function(from[i]), eight at a time.
template <class T, class Function>
inline void map(const T* from, std::int64_t count, bool around_cache, T* to,
                const Function& function) {
  std::int64_t i = 0;
  if (around_cache) {
    const auto aligned = static_cast<std::uintptr_t>(8 * sizeof(T));
    const auto gap = (aligned - reinterpret_cast<std::uintptr_t>(to) % aligned) % aligned;
    const auto head = static_cast<std::int64_t>(gap / sizeof(T));
    i = head < count ? head : count;
    map_rest(from, i, to, function);
    for (; i + 8 <= count; i += 8) stream8(to + i, function(load8(from + i)));
  }
  for (; i + 8 <= count; i += 8) store8(to + i, function(load8(from + i)));
  map_rest(from + i, count - i, to + i, function);
}

inline F8 round_even(F8 v) { return sub(add(v, splat(kRoundBias)), splat(kRoundBias)); }

// v + lambda * (q - v); q itself at lambda 1.
inline F8 blend(F8 v, F8 q, float lambda) {
  return lambda == 1.0f ? q : add(v, mul(splat(lambda), sub(q, v)));
}

template <class T>
inline void fake_quant_weights(const T* w, std::int64_t count, float scale, float lambda,
                               bool around_cache, T* out) {
  const float inverse = 1.0f / scale;
  map(w, count, around_cache, out, [=](F8 v) {
    const F8 clamped = min(max(mul(v, splat(inverse)), splat(-1.0f)), splat(1.0f));
    return blend(v, mul(round_even(clamped), splat(scale)), lambda);
  });
}

inline std::int32_t size_bits(float v) {
  return static_cast<std::int32_t>(float_bits(v) & 0x7fffffffu);
}
inline std::int32_t size_bits(Bf16 v) { return (v.bits & 0x7fff) << 16; }

template <class T>
inline void fake_quant_rows(const T* x, std::int64_t rows, std::int64_t k, float lambda,
                            bool around_cache, T* out) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * k;
    std::int32_t most = 0;
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int32_t bits = size_bits(row[i]);
      most = bits > most ? bits : most;
    }
    if (static_cast<std::uint32_t>(most) >= kInfinityBits) {
      map(row, k, around_cache, out + r * k, [](F8) { return splat(__builtin_nanf("")); });
      continue;
    }
    const float absmax = __builtin_bit_cast(float, most);
    const float a = absmax > kMinAbsMax ? absmax : kMinAbsMax;
    const float inverse = 127.0f / a, step = a / 127.0f;
    map(row, k, around_cache, out + r * k, [=](F8 v) {
      return blend(v, mul(round_even(mul(v, splat(inverse))), splat(step)), lambda);
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
  if (around_cache) finish_streams();
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
  if (around_cache) finish_streams();
}
