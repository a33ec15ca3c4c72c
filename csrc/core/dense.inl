// y = x . w^T for dense weights (float32, float16, bfloat16, Q8_0, Q6_K) and float32 activations.
//
// One output is two chains of fused multiply-adds over eight lanes, in column order, then their
// sum, then the columns past the last eight: so neither the tile an output falls in nor the number
// of activation rows changes a bit. Tiles of 2 x 1 and 1 x 4 (weight rows x activation rows):
// enough chains to hide the latency of the multiply-add, and the weights are read almost in one
// stream. Tried and lost on Zen 1: 8 x 1 without two chains, 1.7 times slower for Q8_0 rows of 576,
// whose eight short streams the hardware prefetcher does not follow.
//
// Roofline: one row is memory-bound at 4 or 2 bytes a weight; at 1.06 (Q8_0) or 0.82 (Q6_K) the
// conversions weigh as much.

template <DenseType type>
struct DenseRow;

template <>
struct DenseRow<DenseType::f32> {
  static constexpr std::int64_t kBytes = 4;
  static F8 load8(const std::uint8_t* p) { return load(reinterpret_cast<const float*>(p)); }
  static float load1(const std::uint8_t* p) {
    float value;
    __builtin_memcpy(&value, p, sizeof value);
    return value;
  }
};

template <>
struct DenseRow<DenseType::f16> {
  static constexpr std::int64_t kBytes = 2;
  static F8 load8(const std::uint8_t* p) { return load_f16(p); }
  static float load1(const std::uint8_t* p) { return half::f16_to_f32(half::load_u16(p)); }
};

template <>
struct DenseRow<DenseType::bf16> {
  static constexpr std::int64_t kBytes = 2;
  static F8 load8(const std::uint8_t* p) { return load_bf16(p); }
  static float load1(const std::uint8_t* p) { return half::bf16_to_f32(half::load_u16(p)); }
};

template <DenseType type, int N, int R>
inline void dense_tile(const float* x, std::int64_t x_stride, const std::uint8_t* w,
                       std::int64_t w_stride, std::int64_t k, float* y, std::int64_t y_stride) {
  using Row = DenseRow<type>;
  F8 acc[N][R][2];
  for (auto& row : acc) {
    for (auto& chains : row) chains[0] = chains[1] = splat(0);
  }
  const auto step = [&](std::int64_t i, int chain) {
    for (int n = 0; n < N; ++n) {
      const F8 weights = Row::load8(w + n * w_stride + i * Row::kBytes);
      for (int r = 0; r < R; ++r) {
        acc[n][r][chain] = mul_add(load(x + r * x_stride + i), weights, acc[n][r][chain]);
      }
    }
  };
  std::int64_t i = 0;
  for (; i + 16 <= k; i += 16) {
    step(i, 0);
    step(i + 8, 1);
  }
  if (i + 8 <= k) {
    step(i, 0);
    i += 8;
  }
  for (int n = 0; n < N; ++n) {
    for (int r = 0; r < R; ++r) {
      float rest = 0;
      for (std::int64_t j = i; j < k; ++j) {
        rest += x[r * x_stride + j] * Row::load1(w + n * w_stride + j * Row::kBytes);
      }
      y[r * y_stride + n] = lane_sum(add(acc[n][r][0], acc[n][r][1])) + rest;
    }
  }
}

// Q8_0 and Q6_K: codes of 32 weights at a time, whose products are summed before a scale is
// applied: one scale for all in Q8_0, one for each half in Q6_K.
template <DenseType type>
struct CodedRow;

template <>
struct CodedRow<DenseType::q8_0> {
  static constexpr int kScales = 1;
  const std::uint8_t* codes;
  F8 scales[kScales];

  CodedRow(const std::uint8_t* row, std::int64_t column) {
    const std::uint8_t* block = row + column / q8_0::kBlock * q8_0::kBlockBytes;
    codes = block + q8_0::kCodes;
    scales[0] = splat_f16(block);
  }
};

template <>
struct CodedRow<DenseType::q6_k> {
  static constexpr int kScales = 2;
  std::uint8_t codes[q6_k::kPart];
  F8 scales[kScales];

  CodedRow(const std::uint8_t* row, std::int64_t column) {
    const std::uint8_t* block = row + column / q6_k::kBlock * q6_k::kBlockBytes;
    const std::int64_t part = column % q6_k::kBlock / q6_k::kPart;
    q6_k::unpack_part(block, part, reinterpret_cast<std::int8_t*>(codes));
    for (int i = 0; i < kScales; ++i) scales[i] = splat(q6_k::factor(block, part, i));
  }
};

template <DenseType type, int N, int R>
inline void coded_tile(const float* x, std::int64_t x_stride, const std::uint8_t* w,
                       std::int64_t w_stride, std::int64_t k, float* y, std::int64_t y_stride) {
  using Row = CodedRow<type>;
  F8 acc[N][R];
  for (auto& row : acc) {
    for (F8& a : row) a = splat(0);
  }
  for (std::int64_t b = 0; b < k; b += 32) {
    for (int n = 0; n < N; ++n) {
      const Row row(w + n * w_stride, b);
      for (int s = 0; s < Row::kScales; ++s) {
        constexpr int kSteps = 4 / Row::kScales;
        F8 sum[R];
        for (F8& one : sum) one = splat(0);
        for (int i = s * kSteps; i < (s + 1) * kSteps; ++i) {
          const F8 weights = load_s8(row.codes + 8 * i);
          for (int r = 0; r < R; ++r) {
            sum[r] = mul_add(load(x + r * x_stride + b + 8 * i), weights, sum[r]);
          }
        }
        for (int r = 0; r < R; ++r) acc[n][r] = mul_add(row.scales[s], sum[r], acc[n][r]);
      }
    }
  }
  for (int n = 0; n < N; ++n) {
    for (int r = 0; r < R; ++r) y[r * y_stride + n] = lane_sum(acc[n][r]);
  }
}

template <DenseType type, int N, int R>
inline void any_tile(const float* x, std::int64_t x_stride, const std::uint8_t* w,
                     std::int64_t w_stride, std::int64_t k, float* y, std::int64_t y_stride) {
  if constexpr (type == DenseType::q8_0 || type == DenseType::q6_k) {
    coded_tile<type, N, R>(x, x_stride, w, w_stride, k, y, y_stride);
  } else {
    dense_tile<type, N, R>(x, x_stride, w, w_stride, k, y, y_stride);
  }
}

template <DenseType type>
inline void dense_range(const float* x, std::int64_t x_stride, std::int64_t rows,
                        const std::uint8_t* w, std::int64_t w_stride, std::int64_t k,
                        std::int64_t n_begin, std::int64_t n_end, float* y, std::int64_t y_stride) {
  std::int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const float* xr = x + r * x_stride;
    float* yr = y + r * y_stride;
    std::int64_t n = n_begin;
    for (; n < n_end; ++n) {
      any_tile<type, 1, 4>(xr, x_stride, w + n * w_stride, w_stride, k, yr + n, y_stride);
    }
  }
  for (; r < rows; ++r) {
    const float* xr = x + r * x_stride;
    float* yr = y + r * y_stride;
    std::int64_t n = n_begin;
    for (; n + 2 <= n_end; n += 2) {
      any_tile<type, 2, 1>(xr, x_stride, w + n * w_stride, w_stride, k, yr + n, y_stride);
    }
    for (; n < n_end; ++n) {
      any_tile<type, 1, 1>(xr, x_stride, w + n * w_stride, w_stride, k, yr + n, y_stride);
    }
  }
}

void gemm_f32_dense(const float* x, std::int64_t x_stride, std::int64_t rows, const void* weights,
                    DenseType type, std::int64_t k, std::int64_t n_begin, std::int64_t n_end,
                    float* y, std::int64_t y_stride) noexcept {
  const auto* w = static_cast<const std::uint8_t*>(weights);
  switch (type) {
    case DenseType::f32:
      dense_range<DenseType::f32>(x, x_stride, rows, w, 4 * k, k, n_begin, n_end, y, y_stride);
      break;
    case DenseType::f16:
      dense_range<DenseType::f16>(x, x_stride, rows, w, 2 * k, k, n_begin, n_end, y, y_stride);
      break;
    case DenseType::bf16:
      dense_range<DenseType::bf16>(x, x_stride, rows, w, 2 * k, k, n_begin, n_end, y, y_stride);
      break;
    case DenseType::q8_0:
      dense_range<DenseType::q8_0>(x, x_stride, rows, w, q8_0::row_bytes(k), k, n_begin, n_end, y,
                                   y_stride);
      break;
    case DenseType::q6_k:
      dense_range<DenseType::q6_k>(x, x_stride, rows, w, q6_k::row_bytes(k), k, n_begin, n_end, y,
                                   y_stride);
      break;
  }
}
