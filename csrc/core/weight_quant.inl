// Absmean ternary quantization of weights.

// 16 running sums whatever the register width, so that every instruction set adds in one order.
template <class T>
inline double sum_abs_of(const T* w, std::int64_t count) {
  constexpr int kLanes = 16;
  D8 halves[2] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    add_abs(halves[0], load8(w + i));
    add_abs(halves[1], load8(w + i + 8));
  }
  double lanes[kLanes];
  store(lanes, halves[0]);
  store(lanes + 8, halves[1]);
  for (int lane = 0; i < count; ++i, ++lane) {
    lanes[lane] += static_cast<double>(__builtin_bit_cast(float, size_bits(w[i])));
  }
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

double sum_abs(const void* w, TrainType type, std::int64_t count) noexcept {
  return type == TrainType::f32 ? sum_abs_of(static_cast<const float*>(w), count)
                                : sum_abs_of(static_cast<const Bf16*>(w), count);
}

void ternary_codes(const float* w, std::int64_t count, float scale, std::int8_t* codes) noexcept {
  const float inverse = 1.0f / scale;
  for (std::int64_t i = 0; i < count; ++i) {
    // Clamped before it is rounded: the bounds are integers, so the order does not matter, and the
    // rounding trick needs a small number.
    float v = w[i] * inverse;
    v = v < -1.0f ? -1.0f : v;
    v = v > 1.0f ? 1.0f : v;
    codes[i] = static_cast<std::int8_t>(float_bits(v + kRoundBias));
  }
}
