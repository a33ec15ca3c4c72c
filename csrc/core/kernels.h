// The kernel table: one per instruction set, every pointer set, chosen by dispatch.h.
//
// Rules that hold for every kernel: noexcept, never allocates, throws, prints or starts a thread.
// Work is cut by row ranges, and a range gives the same bits whoever computes it: results never
// depend on the number of threads or on how many activation rows come in one call. Integers are
// exact, so every instruction set gives the same sums; the floats that follow are one fixed
// expression each
// (-ffp-contract=off), so linear layers are bit-identical over instruction sets too.
#pragma once

#include <cstdint>

namespace wf {

// Element types of a dense (unquantized) weight matrix.
enum class DenseType : std::uint8_t { f32, f16, bf16, q8_0, q6_k };

// Element types of what is trained.
enum class TrainType : std::uint8_t { f32, bf16 };

// Layouts of ternary matrices that kernels run on; layout/*.h.
enum class TernaryLayout : std::uint8_t { t2, t1, lut };

// What a gated feed-forward layer does with its gate: x / (1 + e^-x), or max(x, 0)^2.
enum class Gate : std::uint8_t { silu, relu2 };

// A key-value cache: element types, and positions in a page, which is a tile of the attention
// kernel; layout/kv.h.
enum class KvType : std::uint8_t { f32, f16, bf16, int8 };
constexpr std::int64_t kKvPage = 32;

// Of the softmax over some positions: the largest score, and the sum of e^(score - most).
struct SoftmaxPart {
  float most;
  float total;
};

// Stride in bytes of one int8 activation row: whole blocks of every layout, then whole cache lines,
// so that kernels may read 64 at once.
constexpr std::int64_t kActAlign = 64;
static constexpr std::int64_t act_stride(std::int64_t k) {
  constexpr std::int64_t kLongestBlock = 20;
  const std::int64_t padded = (k + kLongestBlock - 1) / kLongestBlock * kLongestBlock;
  return (padded + kActAlign - 1) / kActAlign * kActAlign;
}

// Largest K of a ternary product: 2 * 128 * K, the sum before the code offset leaves, fits in
// int32.
constexpr std::int64_t kMaxColumns = (1 << 23) - 1;

// Numbers of the quantizers, for CPU and CUDA kernels alike: act_quant.inl says how they are used.
constexpr float kMinAbsMax = 1e-5f;
constexpr float kRoundBias = 12582912.0f;  // 1.5 * 2^23
constexpr std::uint32_t kInfinityBits = 0x7f800000u;

// A dense row w as int8 codes and what that cost: norm >= |scale * codes| and error >=
// |w - scale * codes|, in the Euclidean norm. A row with a NaN or an infinity has codes 0 and error
// infinity.
struct RowScreen {
  float scale;
  float norm;
  float error;
};
constexpr float kMinRowAbsMax = 1e-30f;
constexpr float kTinyNorm = 1e-18f;  // more than what squares that underflow add up to

struct KernelTable {
  const char* isa;

  // Rows of float32 to int8 with one scale a row: a = max(absmax, 1e-5), q = rint(x * (127 / a)),
  // scale = a / 127, sum = sum of q. Columns k..q_stride are written as 0. A row that holds a NaN
  // or an infinity gets q = 0 and scale = NaN: it poisons its own outputs and no other row's.
  void (*quantize_act_int8)(const float* x, std::int64_t x_stride, std::int64_t rows,
                            std::int64_t k, std::int8_t* q, std::int64_t q_stride, float* scale,
                            std::int32_t* sum) noexcept;

  // The same for a row of a gradient, rounded at random: the mean of scale * q over seeds is x.
  // Here a = max(absmax, 1e-30).
  void (*quantize_stochastic)(const float* x, std::int64_t k, std::uint32_t seed, std::int8_t* q,
                              std::int64_t q_stride, float* scale, std::int32_t* sum) noexcept;

  // y[r, j] = float(acc) * (q_scale[r] * w_scale) for the output columns n_begin <= j < n_end,
  // where acc is the exact int32 sum over k of q[r, k] * code[j, k] and w is in the layout that the
  // name ends with. n_begin is a multiple of its panel's rows; n_end is one too, or equals n. y and
  // acc point at column 0. The _i32 twins give the integers.
  void (*gemm_s8_t2)(const std::int8_t* q, std::int64_t q_stride, const float* q_scale,
                     const std::int32_t* q_sum, std::int64_t rows, const std::uint8_t* w,
                     float w_scale, std::int64_t k, std::int64_t n_begin, std::int64_t n_end,
                     float* y, std::int64_t y_stride) noexcept;
  void (*gemm_s8_t2_i32)(const std::int8_t* q, std::int64_t q_stride, const std::int32_t* q_sum,
                         std::int64_t rows, const std::uint8_t* w, std::int64_t k,
                         std::int64_t n_begin, std::int64_t n_end, std::int32_t* acc,
                         std::int64_t acc_stride) noexcept;
  void (*gemm_s8_t1)(const std::int8_t* q, std::int64_t q_stride, const float* q_scale,
                     const std::int32_t* q_sum, std::int64_t rows, const std::uint8_t* w,
                     float w_scale, std::int64_t k, std::int64_t n_begin, std::int64_t n_end,
                     float* y, std::int64_t y_stride) noexcept;
  void (*gemm_s8_t1_i32)(const std::int8_t* q, std::int64_t q_stride, const std::int32_t* q_sum,
                         std::int64_t rows, const std::uint8_t* w, std::int64_t k,
                         std::int64_t n_begin, std::int64_t n_end, std::int32_t* acc,
                         std::int64_t acc_stride) noexcept;

  // The same product by table lookup, in two steps: the tables of one activation row
  // (lut::tables_bytes(k) of them), then the sums, for rows whose tables lie one after the other.
  void (*lut_tables)(const std::int8_t* q, std::int64_t k, std::uint8_t* tables) noexcept;
  void (*gemm_lut)(const std::uint8_t* tables, const float* q_scale, std::int64_t rows,
                   const std::uint8_t* w, float w_scale, std::int64_t k, std::int64_t n_begin,
                   std::int64_t n_end, float* y, std::int64_t y_stride) noexcept;
  void (*gemm_lut_i32)(const std::uint8_t* tables, std::int64_t rows, const std::uint8_t* w,
                       std::int64_t k, std::int64_t n_begin, std::int64_t n_end, std::int32_t* acc,
                       std::int64_t acc_stride) noexcept;

  // Sum of |w| in float64, in a fixed order. The scale of a matrix is
  // max(float(sum over its rows, in order, of sum_abs(row) / (n * k)), 1e-5).
  double (*sum_abs)(const void* w, TrainType type, std::int64_t count) noexcept;
  // code = clamp(rint(w * (1 / scale)), -1, 1). w must be finite.
  void (*ternary_codes)(const float* w, std::int64_t count, float scale,
                        std::int8_t* codes) noexcept;
  // out = w + lambda * (scale * code - w), rounded once to `type`.
  void (*fake_quant_ternary)(const void* w, TrainType type, std::int64_t count, float scale,
                             float lambda, bool around_cache, void* out) noexcept;
  // out = x + lambda * (scale * q - x) with q and scale of each row as quantize_act_int8 has them.
  // around_cache: write results past the caches, for more than they hold.
  void (*fake_quant_act)(const void* x, TrainType type, std::int64_t rows, std::int64_t k,
                         float lambda, bool around_cache, void* out) noexcept;
  // out = scale * q, rounded once to `type`; out = x, rounded to bfloat16 (half to even); out = x.
  void (*dequantize_s8)(const std::int8_t* q, std::int64_t count, float scale, void* out,
                        TrainType type) noexcept;
  void (*round_to_bf16)(const float* x, std::int64_t count, void* out) noexcept;
  void (*widen_bf16)(const void* x, std::int64_t count, float* out) noexcept;

  // y[r, j] = sum over k of x[r, k] * w[j, k] for n_begin <= j < n_end, for dense rows of `type`
  // one after the other (Q8_0 and Q6_K as in GGUF: k is a multiple of their block). In float32, the
  // same bits for any number of rows and any range; they differ between instruction sets. So do
  // those of all kernels below.
  void (*gemm_f32_dense)(const float* x, std::int64_t x_stride, std::int64_t rows, const void* w,
                         DenseType type, std::int64_t k, std::int64_t n_begin, std::int64_t n_end,
                         float* y, std::int64_t y_stride) noexcept;
  // The int8 codes of one such row.
  RowScreen (*screen_row)(const void* row, DenseType type, std::int64_t k,
                          std::int8_t* codes) noexcept;
  // acc[r, j] = sum over k of q[r, k] * w[j, k] for n_begin <= j < n_end, for int16 rows and a
  // matrix in the layout i8. Rows of q are padded with a 0 to even length; no sum may leave int32.
  // n_begin is a multiple of 16; n_end is one too, or equals n.
  void (*gemm_s16_i8)(const std::int16_t* q, std::int64_t q_stride, std::int64_t rows,
                      const std::int8_t* w, std::int64_t k, std::int64_t n_begin,
                      std::int64_t n_end, std::int32_t* acc, std::int64_t acc_stride) noexcept;
  // y = gain * x / sqrt(mean(x^2) + eps); a null gain is all ones. x and y may be the same.
  void (*rms_norm)(const float* x, const float* gain, std::int64_t k, float eps, float* y) noexcept;
  // The two in one: y = rms_norm of a row and its codes, with the bits of rms_norm and then
  // quantize_act_int8 of y. x and y may be the same.
  void (*rms_norm_quantize)(const float* x, const float* gain, std::int64_t k, float eps, float* y,
                            std::int8_t* q, std::int64_t q_stride, float* scale,
                            std::int32_t* sum) noexcept;
  // The gradient of rms_norm for one row, from that of y: x_grad = (g - x * mean(g * x) / r^2) / r
  // with g = gain * y_grad and r = sqrt(mean(x^2) + eps), and gain_grad += y_grad * x / r.
  void (*rms_norm_grad)(const float* x, const float* gain, const float* y_grad, std::int64_t k,
                        float eps, float* x_grad, float* gain_grad) noexcept;
  // y = act(gate) * up. y may be gate or up.
  void (*gated_act)(const float* gate, const float* up, std::int64_t n, Gate kind,
                    float* y) noexcept;
  // Stores a key and a value of head_dim numbers at 0 <= position < kKvPage of the blocks that
  // `keys` and `values` point at. What float16 cannot hold becomes infinite.
  void (*store_kv)(const float* key, const float* value, KvType type, std::int64_t head_dim,
                   std::int64_t position, std::uint8_t* keys, std::uint8_t* values) noexcept;
  // What the positions begin <= t < end add to softmax(scale * q . keys^T) . values, for query
  // heads that share keys and values; q and out are [heads, head_dim], parts is [heads]. With m the
  // largest score and p = e^(score - m): out = sum of p * value, and m and the sum of p are the
  // part. Position t of the sequence lies in page t / kKvPage, in the blocks at `key_offset` and
  // `value_offset` of it. begin is a multiple of kKvPage, begin < end.
  void (*attention)(const float* q, std::int64_t heads, const std::uint8_t* const* pages,
                    KvType type, std::int64_t key_offset, std::int64_t value_offset,
                    std::int64_t begin, std::int64_t end, std::int64_t head_dim, float scale,
                    float* out, SoftmaxPart* parts) noexcept;
  // log(sum of e^x), n >= 1.
  float (*log_sum_exp)(const float* x, std::int64_t n) noexcept;
};

}  // namespace wf
