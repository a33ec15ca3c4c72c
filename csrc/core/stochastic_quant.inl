// int8 quantization of gradients, rounded at random so that the codes' mean is the gradient; plain
// loops, vectorised by the compiler.
//
// The random number of an element is a hash of the seed and its column: any cut of the work gives
// the same codes. 16 bits of it, centred, are added before v is rounded: v goes up with a
// probability of its fraction, to 2^-16, and |v| <= 127 stays inside int8.

// C. Wellons' two-round "lowbias32".
inline std::uint32_t scramble(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

void quantize_stochastic(const float* x, std::int64_t k, std::uint32_t seed, std::int8_t* q,
                         std::int64_t q_stride, float* scale, std::int32_t* sum) noexcept {
  const std::uint32_t most = absmax_bits(x, k);
  std::int32_t total = 0;
  std::int64_t written = 0;
  if (most < kInfinityBits) {
    // Gradients are small: the floor is only what keeps 127 / a finite.
    const float absmax = __builtin_bit_cast(float, most);
    const float a = absmax > kMinRowAbsMax ? absmax : kMinRowAbsMax;
    const float inverse = 127.0f / a;
    const std::uint32_t start = scramble(seed);
    for (std::int64_t i = 0; i < k; ++i) {
      const std::uint32_t bits = scramble(start + static_cast<std::uint32_t>(i)) >> 16;
      const float offset = (static_cast<float>(static_cast<std::int32_t>(bits)) - 32767.5f) / 65536;
      const auto code = static_cast<std::int8_t>(float_bits(x[i] * inverse + offset + kRoundBias));
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
