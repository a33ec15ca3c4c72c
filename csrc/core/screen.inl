// The int8 copy of a head's rows and its product with int16 activations: approximate logits with
// a bound on their error, so that only rows that may win are computed as stored.

// |w - scale * code| of a row, its codes' norm and their scale. Both norms are upper bounds: the
// factor is more than what rounding of k squares and their sum can lose, the term with kTiny covers
// squares that underflow.
template <DenseType type>
inline RowScreen screen_dense_row(const std::uint8_t* row, std::int64_t k, std::int8_t* codes) {
  // Blocks of 32 values: in float32 first, as the type may need more work than the rest.
  constexpr std::int64_t kStep = 32;
  float v[kStep];
  const auto read = [&](std::int64_t i, std::int64_t count) {
    if constexpr (type == DenseType::q6_k) {
      q6_k::weights(row, i, v);
    } else if constexpr (type == DenseType::q8_0) {
      const std::uint8_t* block = row + i / q8_0::kBlock * q8_0::kBlockBytes;
      for (std::int64_t j = 0; j < kStep; j += 8) {
        store(v + j, mul(splat_f16(block), load_s8(block + q8_0::kCodes + j)));
      }
    } else {
      using Row = DenseRow<type>;
      const std::uint8_t* from = row + i * Row::kBytes;
      if (count == kStep) {
        for (std::int64_t j = 0; j < kStep; j += 8)
          store(v + j, Row::load8(from + j * Row::kBytes));
      } else {
        for (std::int64_t j = 0; j < count; ++j) v[j] = Row::load1(from + j * Row::kBytes);
      }
    }
  };
  std::uint32_t most = 0;
  for (std::int64_t i = 0; i < k; i += kStep) {
    const std::int64_t count = k - i < kStep ? k - i : kStep;
    read(i, count);
    const std::uint32_t bits = absmax_bits(v, count);
    most = bits > most ? bits : most;
  }
  if (most >= kInfinityBits) {
    for (std::int64_t i = 0; i < k; ++i) codes[i] = 0;
    return {0.0f, 0.0f, __builtin_inff()};
  }
  const float absmax = __builtin_bit_cast(float, most);
  const float scale = absmax > kMinRowAbsMax ? absmax / 127.0f : kMinRowAbsMax / 127.0f;
  const float inverse = 1.0f / scale;
  float error[8] = {};
  float norm[8] = {};
  for (std::int64_t i = 0; i < k; i += kStep) {
    const std::int64_t count = k - i < kStep ? k - i : kStep;
    read(i, count);
    for (std::int64_t j = count; j < kStep; ++j) v[j] = 0;
    float coded[kStep];
    for (std::int64_t j = 0; j < kStep; ++j) {
      const float rounded = v[j] * inverse + kRoundBias;
      coded[j] = scale * (rounded - kRoundBias);
    }
    for (std::int64_t j = 0; j < count; ++j) {
      codes[i + j] = static_cast<std::int8_t>(float_bits(v[j] * inverse + kRoundBias));
    }
    for (std::int64_t j = 0; j < kStep; ++j) {
      const float missed = v[j] - coded[j];
      error[j % 8] += missed * missed;
      norm[j % 8] += coded[j] * coded[j];
    }
  }
  const float slack = 1.0f + 0x1p-22f * static_cast<float>(k + 64);
  const float bound = __builtin_sqrtf(lane_sum(load(norm))) * slack + kTinyNorm;
  return {scale, bound,
          __builtin_sqrtf(lane_sum(load(error))) * slack + bound * 0x1p-22f + kTinyNorm};
}

RowScreen screen_row(const void* row, DenseType type, std::int64_t k, std::int8_t* codes) noexcept {
  const auto* bytes = static_cast<const std::uint8_t*>(row);
  switch (type) {
    case DenseType::f32:
      return screen_dense_row<DenseType::f32>(bytes, k, codes);
    case DenseType::f16:
      return screen_dense_row<DenseType::f16>(bytes, k, codes);
    case DenseType::bf16:
      return screen_dense_row<DenseType::bf16>(bytes, k, codes);
    case DenseType::q8_0:
      return screen_dense_row<DenseType::q8_0>(bytes, k, codes);
    case DenseType::q6_k:
      return screen_dense_row<DenseType::q6_k>(bytes, k, codes);
  }
  __builtin_unreachable();
}

inline std::int32_t load_pair(const std::int16_t* q) {
  std::int32_t pair;
  __builtin_memcpy(&pair, q, sizeof pair);
  return pair;
}

// Each panel and row has `Chains` sums, whose blocks alternate.
template <int Panels, int Rows, int Chains>
inline void i8_tile(const std::int16_t* q, std::int64_t q_stride, const std::int8_t* w,
                    std::int64_t k, std::int64_t columns, std::int32_t* acc,
                    std::int64_t acc_stride) {
  const std::int64_t panel_bytes = i8::panel_bytes(k), blocks = i8::blocks(k);
  PairSums sums[Panels][Rows][Chains] = {};
  const auto add_block = [&](std::int64_t b, int chain) {
    for (int i = 0; i < Panels; ++i) {
      const std::int8_t* block = w + i * panel_bytes + b * i8::kBlockBytes;
      prefetch_ahead(block);
      const PairCodes codes = load_pairs(block);
      for (int r = 0; r < Rows; ++r) {
        add_pairs(sums[i][r][chain], codes, load_pair(q + r * q_stride + b * i8::kColumns));
      }
    }
  };
  std::int64_t b = 0;
#pragma GCC unroll 4  // or gcc moves every sum to another register and back, in every round
  for (; b + Chains <= blocks; b += Chains) {
    for (int chain = 0; chain < Chains; ++chain) add_block(b + chain, chain);
  }
  for (; b < blocks; ++b) add_block(b, 0);
  for (int i = 0; i < Panels; ++i) {
    const std::int64_t first = i * i8::kRows;
    const std::int64_t count = columns - first < i8::kRows ? columns - first : i8::kRows;
    for (int r = 0; r < Rows; ++r) {
      std::int32_t lanes[Chains][i8::kRows];
      for (int chain = 0; chain < Chains; ++chain) store_pairs(sums[i][r][chain], lanes[chain]);
      for (int chain = 1; chain < Chains; ++chain) {
        for (std::int64_t j = 0; j < i8::kRows; ++j) lanes[0][j] += lanes[chain][j];
      }
      for (std::int64_t j = 0; j < count; ++j) acc[r * acc_stride + first + j] = lanes[0][j];
    }
  }
}

// One row or four at a time: either tile has enough sums to hide the latency of a multiply-add.
template <int Panels>
inline void i8_panels(const std::int16_t* q, std::int64_t q_stride, std::int64_t rows,
                      const std::int8_t* w, std::int64_t k, std::int64_t columns, std::int32_t* acc,
                      std::int64_t acc_stride) {
  constexpr int kTilePanels = Panels < kPairTilePanels ? Panels : kPairTilePanels;
  constexpr int kRowPanels = Panels < kPairPanels ? Panels : kPairPanels;
  std::int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    for (int i = 0; i < Panels; i += kTilePanels) {
      i8_tile<kTilePanels, 4, 1>(q + r * q_stride, q_stride, w + i * i8::panel_bytes(k), k,
                                 columns - i * i8::kRows, acc + r * acc_stride + i * i8::kRows,
                                 acc_stride);
    }
  }
  for (; r < rows; ++r) {
    for (int i = 0; i < Panels; i += kRowPanels) {
      i8_tile<kRowPanels, 1, kPairChains>(q + r * q_stride, q_stride, w + i * i8::panel_bytes(k), k,
                                          columns - i * i8::kRows,
                                          acc + r * acc_stride + i * i8::kRows, acc_stride);
    }
  }
}

void gemm_s16_i8(const std::int16_t* q, std::int64_t q_stride, std::int64_t rows,
                 const std::int8_t* w, std::int64_t k, std::int64_t n_begin, std::int64_t n_end,
                 std::int32_t* acc, std::int64_t acc_stride) noexcept {
  constexpr int kPanels = kPairPanels > kPairTilePanels ? kPairPanels : kPairTilePanels;
  constexpr std::int64_t kGroup = kPanels * i8::kRows;
  std::int64_t n = n_begin;
  const auto panel = [&] { return w + n / i8::kRows * i8::panel_bytes(k); };
  for (; n + kGroup - i8::kRows < n_end; n += kGroup) {
    i8_panels<kPanels>(q, q_stride, rows, panel(), k, n_end - n, acc + n, acc_stride);
  }
  for (; n < n_end; n += i8::kRows) {
    i8_panels<1>(q, q_stride, rows, panel(), k, n_end - n, acc + n, acc_stride);
  }
}
