// One query head against the keys and values of its sequence, softmax computed on the way.
//
//   scores of a tile of 32 positions -> running maximum m -> p = e^(score - m)
//   out = out * e^(m_before - m) + sum p * value;   at the end out / sum of p
//
// Tiles are the pages of the cache, at absolute positions 0, 32, 64, ..., and every sum has a fixed
// order, so the result for a token does not depend on how its sequence was cut into chunks or who
// else is in the batch.
//
// Roofline: keys and values are read once, 8 bytes a position and dimension.

inline float dot(const float* a, const float* b, std::int64_t n) {
  F8 sum = splat(0);
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) sum = mul_add(load(a + i), load(b + i), sum);
  float rest = 0;
  for (; i < n; ++i) rest += a[i] * b[i];
  return lane_sum(sum) + rest;
}

// out[i] = out[i] * keep + sum over j of p[j] * values[j, i], j in order. Four registers of eight
// dimensions at a time hide the latency of the multiply-add.
template <int Registers>
inline void add_values(const float* p, const float* values, std::int64_t count, std::int64_t stride,
                       float keep, float* out) {
  F8 acc[Registers];
  for (int r = 0; r < Registers; ++r) acc[r] = mul(load(out + 8 * r), splat(keep));
  for (std::int64_t j = 0; j < count; ++j) {
    const F8 weight = splat(p[j]);
    for (int r = 0; r < Registers; ++r) {
      acc[r] = mul_add(weight, load(values + j * stride + 8 * r), acc[r]);
    }
  }
  for (int r = 0; r < Registers; ++r) store(out + 8 * r, acc[r]);
}

void attention(const float* q, const float* const* pages, std::int64_t key_offset,
               std::int64_t value_offset, std::int64_t positions, std::int64_t head_dim,
               float scale, float* out) noexcept {
  constexpr std::int64_t kTile = kKvPage;
  float most = -__builtin_inff();
  float total = 0;
  for (std::int64_t i = 0; i < head_dim; ++i) out[i] = 0;
  for (std::int64_t first = 0; first < positions; first += kTile) {
    const std::int64_t count = positions - first < kTile ? positions - first : kTile;
    const float* keys = pages[first / kTile] + key_offset;
    const float* values = pages[first / kTile] + value_offset;
    float p[kTile];
    for (std::int64_t j = 0; j < kTile; ++j) p[j] = -__builtin_inff();
    for (std::int64_t j = 0; j < count; ++j) {
      p[j] = dot(q, keys + j * head_dim, head_dim) * scale;
    }
    const F8 largest = max(max(load(p), load(p + 8)), max(load(p + 16), load(p + 24)));
    const float tile_most = lane_max(largest);
    const float new_most = tile_most > most ? tile_most : most;
    const float keep = first == 0 ? 0.0f : by_lanes(most - new_most, exponential);
    for (int r = 0; r < 4; ++r) {
      store(p + 8 * r, exponential(sub(load(p + 8 * r), splat(new_most))));
    }
    for (std::int64_t j = count; j < kTile; ++j) p[j] = 0;
    total =
        total * keep + lane_sum(add(add(load(p), load(p + 8)), add(load(p + 16), load(p + 24))));
    most = new_most;
    std::int64_t i = 0;
    for (; i + 32 <= head_dim; i += 32) {
      add_values<4>(p, values + i, count, head_dim, keep, out + i);
    }
    for (; i + 8 <= head_dim; i += 8) {
      add_values<1>(p, values + i, count, head_dim, keep, out + i);
    }
    for (; i < head_dim; ++i) {
      float sum = out[i] * keep;
      for (std::int64_t j = 0; j < count; ++j) sum += p[j] * values[j * head_dim + i];
      out[i] = sum;
    }
  }
  const float inverse = 1.0f / total;
  for (std::int64_t i = 0; i < head_dim; ++i) out[i] *= inverse;
}
