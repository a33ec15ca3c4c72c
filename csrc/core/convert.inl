// Elements from one type to another, on the eight lanes of lanes_*.h: what stands between int8
// products and the bfloat16 ones of training. Roofline: memory.

// to[i] = function(eight lanes at from + i).
template <class From, class To, class Function>
inline void convert(const From* from, std::int64_t count, To* to, const Function& function) {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) store8(to + i, function(from + i));
  const std::int64_t rest = count - i;
  if (rest == 0) return;  // memcpy may not be given the null pointers of nothing
  From last[8] = {};
  To lanes[8];
  __builtin_memcpy(last, from + i, static_cast<std::size_t>(rest) * sizeof(From));
  store8(lanes, function(last));
  __builtin_memcpy(to + i, lanes, static_cast<std::size_t>(rest) * sizeof(To));
}

void dequantize_s8(const std::int8_t* q, std::int64_t count, float scale, void* out,
                   TrainType type) noexcept {
  const auto times_scale = [=](const std::int8_t* eight) {
    return mul(load_s8(reinterpret_cast<const std::uint8_t*>(eight)), splat(scale));
  };
  if (type == TrainType::f32) {
    convert(q, count, static_cast<float*>(out), times_scale);
  } else {
    convert(q, count, static_cast<Bf16*>(out), times_scale);
  }
}

void round_to_bf16(const float* x, std::int64_t count, void* out) noexcept {
  convert(x, count, static_cast<Bf16*>(out), [](const float* eight) { return load(eight); });
}

void widen_bf16(const void* x, std::int64_t count, float* out) noexcept {
  convert(static_cast<const Bf16*>(x), count, out, [](const Bf16* eight) { return load8(eight); });
}
