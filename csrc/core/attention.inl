// Query heads against the keys and values of their sequence, softmax computed on the way.
//
//   scores of a tile of 32 positions -> running maximum m -> p = e^(score - m)
//   out = out * e^(m_before - m) + sum p * value
//
// Who calls it divides by the sum of p, once what all positions give is together.
//
// Tiles are the pages of the cache, at absolute positions 0, 32, 64, ..., and every sum has a fixed
// order, so the result for a token does not depend on how its sequence was cut into chunks, who
// else is in the batch, or which heads come in one call.
//
// With vector registers up to four heads at a time share every load of keys and values, and what it
// takes to widen them.
// Roofline: keys and values are read once, 2 elements a position and dimension.

template <KvType type>
struct KvElements {
  static constexpr std::int64_t kBytes = type == KvType::f32 ? 4 : type == KvType::int8 ? 1 : 2;

  template <class Lanes>
  static typename Lanes::Vector load_lanes(const std::uint8_t* p) {
    if constexpr (type == KvType::f32) return Lanes::load_f32(reinterpret_cast<const float*>(p));
    if constexpr (type == KvType::f16) return Lanes::load_half(p);
    if constexpr (type == KvType::bf16) return Lanes::load_bfloat(p);
    if constexpr (type == KvType::int8) return Lanes::load_int8(p);
  }
  static float load1(const std::uint8_t* p) {
    if constexpr (type == KvType::f32) return DenseRow<DenseType::f32>::load1(p);
    if constexpr (type == KvType::f16) return DenseRow<DenseType::f16>::load1(p);
    if constexpr (type == KvType::bf16) return DenseRow<DenseType::bf16>::load1(p);
    if constexpr (type == KvType::int8) return static_cast<float>(static_cast<std::int8_t>(*p));
  }
};

// Eight registers of sums, however many heads share them: a multiply-add takes several cycles.
template <int Heads>
constexpr int kRegisters = Heads <= 2 ? 4 : 2;

// Products of the queries with 32 keys, as p[head][position].
template <KvType type, int Heads>
inline void score_tile(const float* q, const std::uint8_t* keys, std::int64_t head_dim, float scale,
                       float* p) {
  using Kv = KvElements<type>;
  using Lanes = WidestLanes;
  using Vector = Lanes::Vector;
  constexpr int kTileRegisters = kKvPage / Lanes::kCount;
  constexpr int kStep = kRegisters<Heads> < kTileRegisters ? kRegisters<Heads> : kTileRegisters;
  const float* key_scales = reinterpret_cast<const float*>(keys + head_dim * kKvPage);
  for (int first = 0; first < kKvPage; first += kStep * Lanes::kCount) {
    Vector acc[Heads][kStep];
    for (auto& row : acc) {
      for (Vector& a : row) a = Lanes::splat_all(0);
    }
    for (std::int64_t i = 0; i < head_dim; ++i) {
      const std::uint8_t* at = keys + (i * kKvPage + first) * Kv::kBytes;
      Vector wide[Heads];
      for (int h = 0; h < Heads; ++h) wide[h] = Lanes::splat_all(q[h * head_dim + i]);
      for (int r = 0; r < kStep; ++r) {
        const Vector key = Kv::template load_lanes<Lanes>(at + r * Lanes::kCount * Kv::kBytes);
        for (int h = 0; h < Heads; ++h) acc[h][r] = mul_add(wide[h], key, acc[h][r]);
      }
    }
    for (int r = 0; r < kStep; ++r) {
      const int position = first + r * Lanes::kCount;
      Vector factor = Lanes::splat_all(scale);
      if constexpr (type == KvType::int8) {
        factor = mul(factor, Lanes::load_f32(key_scales + position));
      }
      for (int h = 0; h < Heads; ++h) store(p + h * kKvPage + position, mul(acc[h][r], factor));
    }
  }
}

// Where the softmax of a head stands, and what its outputs so far are multiplied by in this tile.
struct SoftmaxState : SoftmaxPart {
  float keep = 0;
};

// Turns the scores p of the first `count` positions into weights p; the others weigh 0.
inline void weigh_tile(float* p, std::int64_t count, bool is_first, SoftmaxState& state) {
  for (std::int64_t j = count; j < kKvPage; ++j) p[j] = -__builtin_inff();
  const F8 largest = max(max(load(p), load(p + 8)), max(load(p + 16), load(p + 24)));
  const float tile_most = lane_max(largest);
  const float most = tile_most > state.most ? tile_most : state.most;
  state.keep = is_first ? 0.0f : by_lanes(state.most - most, exponential);
  for (int j = 0; j < kKvPage; j += 8) {
    store(p + j, exponential(sub(load(p + j), splat(most))));
  }
  for (std::int64_t j = count; j < kKvPage; ++j) p[j] = 0;
  const F8 sum = add(add(load(p), load(p + 8)), add(load(p + 16), load(p + 24)));
  state.total = state.total * state.keep + lane_sum(sum);
  state.most = most;
}

// out[i] = out[i] * keep + sum over j of p[j] * values[j, i], j in order, for as many dimensions as
// so many registers hold: enough chains to hide the latency of the multiply-add.
template <KvType type, class Lanes, int Heads, int Registers>
inline void add_values(const float* p, const std::uint8_t* values, std::int64_t count,
                       std::int64_t head_dim, const SoftmaxState* states, float* out) {
  using Kv = KvElements<type>;
  using Vector = Lanes::Vector;
  constexpr int kCount = Lanes::kCount;
  Vector acc[Heads][Registers];
  for (int h = 0; h < Heads; ++h) {
    for (int r = 0; r < Registers; ++r) {
      const Vector before = Lanes::load_f32(out + h * head_dim + kCount * r);
      acc[h][r] = mul(before, Lanes::splat_all(states[h].keep));
    }
  }
  for (std::int64_t j = 0; j < count; ++j) {
    Vector weights[Heads];
    for (int h = 0; h < Heads; ++h) weights[h] = Lanes::splat_all(p[h * kKvPage + j]);
    for (int r = 0; r < Registers; ++r) {
      const std::uint8_t* at = values + (j * head_dim + kCount * r) * Kv::kBytes;
      const Vector value = Kv::template load_lanes<Lanes>(at);
      for (int h = 0; h < Heads; ++h) acc[h][r] = mul_add(weights[h], value, acc[h][r]);
    }
  }
  for (int h = 0; h < Heads; ++h) {
    for (int r = 0; r < Registers; ++r) store(out + h * head_dim + kCount * r, acc[h][r]);
  }
}

template <KvType type, int Heads>
inline void attend_heads(const float* q, const std::uint8_t* const* pages, std::int64_t key_offset,
                         std::int64_t value_offset, std::int64_t begin, std::int64_t end,
                         std::int64_t head_dim, float scale, float* out, SoftmaxPart* parts) {
  using Kv = KvElements<type>;
  SoftmaxState states[Heads] = {};
  for (SoftmaxState& state : states) state.most = -__builtin_inff();
  for (std::int64_t i = 0; i < Heads * head_dim; ++i) out[i] = 0;
  for (std::int64_t first = begin; first < end; first += kKvPage) {
    const std::int64_t count = end - first < kKvPage ? end - first : kKvPage;
    const std::uint8_t* keys = pages[first / kKvPage] + key_offset;
    const std::uint8_t* values = pages[first / kKvPage] + value_offset;
    float p[Heads * kKvPage];
    score_tile<type, Heads>(q, keys, head_dim, scale, p);
    for (int h = 0; h < Heads; ++h) weigh_tile(p + h * kKvPage, count, first == begin, states[h]);
    if constexpr (type == KvType::int8) {
      const float* value_scales = reinterpret_cast<const float*>(values + head_dim * kKvPage);
      for (int h = 0; h < Heads; ++h) {
        for (std::int64_t j = 0; j < kKvPage; ++j) p[h * kKvPage + j] *= value_scales[j];
      }
    }
    std::int64_t i = 0;
    const auto add_while = [&]<class Lanes, int Registers>() {
      constexpr int kStep = Lanes::kCount * Registers;
      for (; i + kStep <= head_dim; i += kStep) {
        add_values<type, Lanes, Heads, Registers>(p, values + i * Kv::kBytes, count, head_dim,
                                                  states, out + i);
      }
    };
    add_while.template operator()<WidestLanes, kRegisters<Heads>>();
    add_while.template operator()<WidestLanes, 1>();
    add_while.template operator()<EightLanes, 1>();
    for (; i < head_dim; ++i) {
      for (int h = 0; h < Heads; ++h) {
        float sum = out[h * head_dim + i] * states[h].keep;
        for (std::int64_t j = 0; j < count; ++j) {
          sum += p[h * kKvPage + j] * Kv::load1(values + (j * head_dim + i) * Kv::kBytes);
        }
        out[h * head_dim + i] = sum;
      }
    }
  }
  for (int h = 0; h < Heads; ++h) parts[h] = states[h];
}

template <KvType type>
inline void attend_all(const float* q, std::int64_t heads, const std::uint8_t* const* pages,
                       std::int64_t key_offset, std::int64_t value_offset, std::int64_t begin,
                       std::int64_t end, std::int64_t head_dim, float scale, float* out,
                       SoftmaxPart* parts) {
  const auto attend = [&]<int Heads>(std::int64_t first) {
    attend_heads<type, Heads>(q + first * head_dim, pages, key_offset, value_offset, begin, end,
                              head_dim, scale, out + first * head_dim, parts + first);
  };
  std::int64_t h = 0;
  if constexpr (kSharedHeads == 4) {
    for (; h + 4 <= heads; h += 4) attend.template operator()<4>(h);
    if (heads - h == 3) attend.template operator()<3>(h);
    if (heads - h == 2) attend.template operator()<2>(h);
    if (heads - h == 1) attend.template operator()<1>(h);
  } else {
    for (; h < heads; ++h) attend.template operator()<1>(h);
  }
}

void attention(const float* q, std::int64_t heads, const std::uint8_t* const* pages, KvType type,
               std::int64_t key_offset, std::int64_t value_offset, std::int64_t begin,
               std::int64_t end, std::int64_t head_dim, float scale, float* out,
               SoftmaxPart* parts) noexcept {
  const auto attend = type == KvType::f32    ? attend_all<KvType::f32>
                      : type == KvType::f16  ? attend_all<KvType::f16>
                      : type == KvType::bf16 ? attend_all<KvType::bf16>
                                             : attend_all<KvType::int8>;
  attend(q, heads, pages, key_offset, value_offset, begin, end, head_dim, scale, out, parts);
}

// Eight elements in the type of the cache; `inverse` is 127 / absmax for int8.
template <KvType type>
inline void encode8(F8 x, float inverse, std::uint8_t* to) {
  if constexpr (type == KvType::f32) store(reinterpret_cast<float*>(to), x);
  if constexpr (type == KvType::f16) store_f16(to, x);
  if constexpr (type == KvType::bf16) store_bf16(to, x);
  if constexpr (type == KvType::int8) {
    float rounded[8];
    store(rounded, add(mul(x, splat(inverse)), splat(kRoundBias)));
    for (int i = 0; i < 8; ++i) to[i] = static_cast<std::uint8_t>(float_bits(rounded[i]));
  }
}

// One key or value: element i goes to `to` + i * stride elements.
template <KvType type>
inline void store_elements(const float* x, std::int64_t count, std::int64_t stride,
                           std::uint8_t* to, float* scale) {
  constexpr std::int64_t kBytes = KvElements<type>::kBytes;
  float inverse = 0;
  if constexpr (type == KvType::int8) {
    const std::uint32_t most = absmax_bits(x, count);
    const float absmax = __builtin_bit_cast(float, most);
    const float a = absmax > kMinRowAbsMax ? absmax : kMinRowAbsMax;
    // A NaN or an infinity makes the scale NaN, whatever the codes are.
    inverse = most < kInfinityBits ? 127.0f / a : 0.0f;
    *scale = most < kInfinityBits ? a / 127.0f : __builtin_nanf("");
  }
  for (std::int64_t i = 0; i < count; i += 8) {
    const std::int64_t some = count - i < 8 ? count - i : 8;
    float v[8] = {};
    std::uint8_t encoded[32];
    for (std::int64_t j = 0; j < some; ++j) v[j] = x[i + j];
    encode8<type>(load(v), inverse, encoded);
    for (std::int64_t j = 0; j < some; ++j) {
      __builtin_memcpy(to + (i + j) * stride * kBytes, encoded + j * kBytes, kBytes);
    }
  }
}

template <KvType type>
inline void store_both(const float* key, const float* value, std::int64_t head_dim,
                       std::int64_t position, std::uint8_t* keys, std::uint8_t* values) {
  constexpr std::int64_t kBytes = KvElements<type>::kBytes;
  const std::int64_t scales = head_dim * kKvPage;  // behind int8 elements
  store_elements<type>(key, head_dim, kKvPage, keys + position * kBytes,
                       reinterpret_cast<float*>(keys + scales) + position);
  store_elements<type>(value, head_dim, 1, values + position * head_dim * kBytes,
                       reinterpret_cast<float*>(values + scales) + position);
}

void store_kv(const float* key, const float* value, KvType type, std::int64_t head_dim,
              std::int64_t position, std::uint8_t* keys, std::uint8_t* values) noexcept {
  const auto store_as = type == KvType::f32    ? store_both<KvType::f32>
                        : type == KvType::f16  ? store_both<KvType::f16>
                        : type == KvType::bf16 ? store_both<KvType::bf16>
                                               : store_both<KvType::int8>;
  store_as(key, value, head_dim, position, keys, values);
}
