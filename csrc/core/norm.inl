// RMS norm, gated activations and log-sum-exp, on the eight lanes of lanes_*.h. The order of every
// sum is fixed, so a row gives the same bits wherever it is computed.

// Lanes i and i + 4 first, then pairs.
inline float lane_sum(F8 a) {
  float v[8];
  store(v, a);
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

inline float lane_max(F8 a) {
  float v[8];
  store(v, a);
  float most = v[0];
  for (int i = 1; i < 8; ++i) most = v[i] > most ? v[i] : most;
  return most;
}

// e^x by 2^n * e^r with |r| <= ln 2 / 2; about 1 ulp. Arguments are clamped to what float32 holds,
// so e^-inf is 2^-126 or so, not 0: callers mask lanes that must not count. A NaN stays one, as min
// and max give their second operand where either is a NaN.
inline F8 exponential(F8 x) {
  x = min(splat(88.3f), max(splat(-87.3f), x));
  const F8 biased = mul_add(x, splat(1.44269504f), splat(12582912.0f));
  const F8 n = sub(biased, splat(12582912.0f));
  // ln 2 in two parts: the first has few enough bits that n times it is exact.
  F8 r = sub(x, mul(n, splat(0.693359375f)));
  r = sub(r, mul(n, splat(-2.12194440e-4f)));
  F8 p = splat(1.9875691500e-4f);
  p = mul_add(p, r, splat(1.3981999507e-3f));
  p = mul_add(p, r, splat(8.3334519073e-3f));
  p = mul_add(p, r, splat(4.1665795894e-2f));
  p = mul_add(p, r, splat(1.6666665459e-1f));
  p = mul_add(p, r, splat(5.0000001201e-1f));
  p = mul_add(mul(p, r), r, add(r, splat(1.0f)));
  return mul(p, exponent_of_biased(biased));
}

// One value through a lane function, for what is left after the last eight.
template <typename Function>
inline float by_lanes(float x, Function function) {
  float v[8];
  store(v, function(splat(x)));
  return v[0];
}

// What a row is multiplied by: 1 / sqrt(mean(x^2) + eps).
inline float inverse_rms(const float* x, std::int64_t k, float eps) {
  F8 sums[4] = {splat(0), splat(0), splat(0), splat(0)};
  std::int64_t i = 0;
  for (; i + 32 <= k; i += 32) {
    for (int j = 0; j < 4; ++j) {
      const F8 v = load(x + i + 8 * j);
      sums[j] = mul_add(v, v, sums[j]);
    }
  }
  float rest = 0;
  for (; i < k; ++i) rest += x[i] * x[i];
  const float total = lane_sum(add(add(sums[0], sums[1]), add(sums[2], sums[3]))) + rest;
  return 1.0f / __builtin_sqrtf(total / static_cast<float>(k) + eps);
}

void rms_norm(const float* x, const float* gain, std::int64_t k, float eps, float* y) noexcept {
  const float inverse = inverse_rms(x, k, eps);
  if (gain == nullptr) {
    for (std::int64_t i = 0; i < k; ++i) y[i] = x[i] * inverse;
  } else {
    for (std::int64_t i = 0; i < k; ++i) y[i] = gain[i] * (x[i] * inverse);
  }
}

void rms_norm_quantize(const float* x, const float* gain, std::int64_t k, float eps, float* y,
                       std::int8_t* q, std::int64_t q_stride, float* scale,
                       std::int32_t* sum) noexcept {
  const float inverse = inverse_rms(x, k, eps);
  std::int32_t most = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    y[i] = gain[i] * (x[i] * inverse);
    const auto bits = static_cast<std::int32_t>(float_bits(y[i]) & 0x7fffffffu);
    most = bits > most ? bits : most;
  }
  quantize_row(y, k, static_cast<std::uint32_t>(most), q, q_stride, scale, sum);
}

void rms_norm_grad(const float* x, const float* gain, const float* y_grad, std::int64_t k,
                   float eps, float* x_grad, float* gain_grad) noexcept {
  const float inverse = inverse_rms(x, k, eps);
  F8 sums[2] = {splat(0), splat(0)};
  std::int64_t i = 0;
  for (; i + 16 <= k; i += 16) {
    for (int j = 0; j < 2; ++j) {
      const std::int64_t at = i + 8 * j;
      sums[j] = mul_add(mul(load(gain + at), load(y_grad + at)), load(x + at), sums[j]);
    }
  }
  float dot = lane_sum(add(sums[0], sums[1]));
  for (; i < k; ++i) dot += gain[i] * y_grad[i] * x[i];
  const float mean = dot / static_cast<float>(k) * inverse * inverse;
  for (i = 0; i < k; ++i) {
    x_grad[i] = (gain[i] * y_grad[i] - x[i] * mean) * inverse;
    gain_grad[i] += y_grad[i] * (x[i] * inverse);
  }
}

inline F8 silu(F8 x) { return div(x, add(splat(1.0f), exponential(sub(splat(0.0f), x)))); }

void gated_act(const float* gate, const float* up, std::int64_t n, Gate kind, float* y) noexcept {
  if (kind == Gate::relu2) {
    for (std::int64_t i = 0; i < n; ++i) {
      const float positive = gate[i] > 0 ? gate[i] : 0;
      y[i] = positive * positive * up[i];
    }
    return;
  }
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) store(y + i, mul(silu(load(gate + i)), load(up + i)));
  for (; i < n; ++i) y[i] = by_lanes(gate[i], silu) * up[i];
}

float log_sum_exp(const float* x, std::int64_t n) noexcept {
  F8 largest = splat(x[0]);
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) largest = max(largest, load(x + i));
  float most = lane_max(largest);
  for (; i < n; ++i) most = x[i] > most ? x[i] : most;
  const F8 shift = splat(most);
  F8 sum = splat(0);
  i = 0;
  for (; i + 8 <= n; i += 8) sum = add(sum, exponential(sub(load(x + i), shift)));
  float rest = 0;
  for (; i < n; ++i) rest += by_lanes(x[i] - most, exponential);
  return most + __builtin_logf(lane_sum(sum) + rest);
}
