// Per-token int8 quantization of activations; plain loops, vectorised by the compiler for each
// instruction set.
//
// Both tricks below are exact:
// - the absolute maximum is taken on bit patterns, where |x| orders as an integer and a NaN or an
//   infinity is simply larger than every finite number;
// - adding 1.5 * 2^23 to |v| < 2^22 rounds v half-to-even into the low bits of the sum.

inline std::uint32_t float_bits(float value) { return __builtin_bit_cast(std::uint32_t, value); }

inline std::uint32_t absmax_bits(const float* x, std::int64_t k) {
  std::int32_t most = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    const auto bits = static_cast<std::int32_t>(float_bits(x[i]) & 0x7fffffffu);
    most = bits > most ? bits : most;
  }
  return static_cast<std::uint32_t>(most);
}

// One row whose largest |x| has the bits `most`.
inline void quantize_row(const float* x, std::int64_t k, std::uint32_t most, std::int8_t* q,
                         std::int64_t q_stride, float* scale, std::int32_t* sum) {
  std::int32_t total = 0;
  std::int64_t written = 0;
  if (most < kInfinityBits) {
    const float absmax = __builtin_bit_cast(float, most);
    const float a = absmax > kMinAbsMax ? absmax : kMinAbsMax;
    const float inverse = 127.0f / a;
    for (std::int64_t i = 0; i < k; ++i) {
      // |x * inverse| <= 127 * (1 + 2^-23), so the rounded value needs no clamp.
      const auto code = static_cast<std::int8_t>(float_bits(x[i] * inverse + kRoundBias));
      q[i] = code;
      total += code;
    }
    *scale = a / 127.0f;
    written = k;
  } else {
    *scale = __builtin_nanf("");
  }
  for (std::int64_t i = written; i < q_stride; ++i) q[i] = 0;
  *sum = total;
}

void quantize_act_int8(const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t k,
                       std::int8_t* q, std::int64_t q_stride, float* scale,
                       std::int32_t* sum) noexcept {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* xr = x + r * x_stride;
    quantize_row(xr, k, absmax_bits(xr, k), q + r * q_stride, q_stride, scale + r, sum + r);
  }
}
