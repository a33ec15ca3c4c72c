// y = x . w^T for dense weights (float32, float16, bfloat16, Q8_0) and float32 activations.
//
// One output is two chains of fused multiply-adds over eight lanes, in column order, then their
// sum, then the columns past the last eight: so neither the tile an output falls in nor the number
// of activation rows changes a bit. Tiles of 2 x 1 and 1 x 4 (weight rows x activation rows):
// enough chains to hide the latency of the multiply-add, and the weights are read almost in one
// stream. Tried and lost on Zen 1: 8 x 1 without two chains, 1.7 times slower for Q8_0 rows of 576,
// whose eight short streams the hardware prefetcher does not follow.
//
// Roofline: one row is memory-bound at 4, 2 or 1.06 bytes a weight.

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

// Q8_0: blocks of 32 weights in 34 bytes, a float16 scale and 32 int8. The products of a block are
// summed before its scale is applied.
template <int N, int R>
inline void q8_0_tile(const float* x, std::int64_t x_stride, const std::uint8_t* w,
                      std::int64_t w_stride, std::int64_t k, float* y, std::int64_t y_stride) {
  F8 acc[N][R];
  for (auto& row : acc) {
    for (F8& a : row) a = splat(0);
  }
  for (std::int64_t b = 0; b < k / 32; ++b) {
    for (int n = 0; n < N; ++n) {
      const std::uint8_t* block = w + n * w_stride + b * 34;
      const F8 scale = splat_f16(block);
      F8 sum[R];
      for (F8& s : sum) s = splat(0);
      for (int part = 0; part < 4; ++part) {
        const F8 weights = load_s8(block + 2 + 8 * part);
        for (int r = 0; r < R; ++r) {
          const F8 input = load(x + r * x_stride + b * 32 + 8 * part);
          sum[r] = mul_add(input, weights, sum[r]);
        }
      }
      for (int r = 0; r < R; ++r) acc[n][r] = mul_add(scale, sum[r], acc[n][r]);
    }
  }
  for (int n = 0; n < N; ++n) {
    for (int r = 0; r < R; ++r) y[r * y_stride + n] = lane_sum(acc[n][r]);
  }
}

template <DenseType type, int N, int R>
inline void any_tile(const float* x, std::int64_t x_stride, const std::uint8_t* w,
                     std::int64_t w_stride, std::int64_t k, float* y, std::int64_t y_stride) {
  if constexpr (type == DenseType::q8_0) {
    q8_0_tile<N, R>(x, x_stride, w, w_stride, k, y, y_stride);
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
      dense_range<DenseType::q8_0>(x, x_stride, rows, w, k / 32 * 34, k, n_begin, n_end, y,
                                   y_stride);
      break;
  }
}
