// The ternary linear layer of training at lambda 1: the product of the codes themselves, from
// float32 master weights, and the operands of its straight-through backward.
#include <algorithm>
#include <tuple>
#include <vector>

#include "layout/t2.h"
#include "tensors.h"

namespace wf::ops {
namespace {

std::tuple<Tensor, Tensor> ternary_pack(const Tensor& w_in) {
  STD_TORCH_CHECK(w_in.dim() == 2 && w_in.numel() > 0,
                  "ternary_pack: expected a weight [N, K] that is not empty");
  const Tensor w = as_float(w_in);
  const std::int64_t n = w.size(0), k = w.size(1);
  const float scale = absmean(TrainMatrix(w), n, k);
  const KernelTable& table = kernels();
  const float* from = w.const_data_ptr<float>();
  Tensor packed = empty({t2::size_bytes(n, k)}, ScalarType::Byte);
  auto* to = packed.mutable_data_ptr<std::uint8_t>();
  parallel(n, kGrainElements / k, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::int8_t> codes(static_cast<std::size_t>(k));
    for (std::int64_t row = begin; row < end; ++row) {
      table.ternary_codes(from + row * k, k, scale, codes.data());
      t2::pack_row(codes.data(), row, k, to);
    }
  });
  t2::pack_padding_rows(n, k, to);
  Tensor scale_out = empty({}, ScalarType::Float);
  *scale_out.mutable_data_ptr<float>() = scale;
  return {packed, scale_out};
}

TrainType train_type(ScalarType dtype, const char* op) {
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::BFloat16, op,
                  ": dtype must be float32 or bfloat16");
  return dtype == ScalarType::Float ? TrainType::f32 : TrainType::bf16;
}

// Rows of int8 codes with the padding that a product wants, their scales and their sums.
struct CodedRows {
  std::int64_t rows, k, stride;
  Tensor codes, scales;
  std::vector<std::int32_t> sums;

  CodedRows(std::int64_t rows_in, std::int64_t k_in)
      : rows(rows_in),
        k(k_in),
        stride(act_stride(k)),
        codes(empty({rows, stride}, ScalarType::Char)),
        scales(empty({rows}, ScalarType::Float)),
        sums(static_cast<std::size_t>(rows)) {}

  // Calls quantize(values, scratch, row, q, scale, sum) for every row of x; scratch holds k floats,
  // and may be where the values are.
  template <class Quantize>
  void fill(const TrainMatrix& x, const Quantize& quantize) {
    auto* q = codes.mutable_data_ptr<std::int8_t>();
    auto* scale = scales.mutable_data_ptr<float>();
    parallel(rows, kGrainElements / k, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> scratch(static_cast<std::size_t>(k));
      for (std::int64_t row = begin; row < end; ++row) {
        quantize(x.float_row(row, k, scratch.data()), scratch.data(), row, q + row * stride,
                 scale + row, sums.data() + row);
      }
    });
  }
};

// What is multiplied together: four panels of t2, which the kernels are fastest with, and as many
// rows of float32 results as wait in a first-level cache to be rounded.
constexpr std::int64_t kGroupOutputs = 4 * t2::kRows, kRoundedRows = 128;

// y [rows, n] = x @ W.T + bias for a t2 matrix W [n, k]; a null bias is none.
void multiply(const CodedRows& x, const Tensor& packed, const Tensor& w_scale_in, std::int64_t n,
              const float* bias, TrainType type, void* y) {
  const KernelTable& table = kernels();
  const float w_scale = *as_float(w_scale_in).const_data_ptr<float>();
  const auto* w = packed.const_data_ptr<std::uint8_t>();
  const auto* q = x.codes.const_data_ptr<std::int8_t>();
  const auto* q_scale = x.scales.const_data_ptr<float>();
  const std::int64_t work = std::max<std::int64_t>(1, x.rows * x.k * kGroupOutputs);
  const std::int64_t groups = (n + kGroupOutputs - 1) / kGroupOutputs;
  parallel(groups, kGrainElements / work, [&](std::int64_t first, std::int64_t last) {
    const bool is_half = type == TrainType::bf16;
    std::vector<float> exact(is_half ? kRoundedRows * kGroupOutputs : 0);
    for (std::int64_t begin = first * kGroupOutputs; begin < std::min(n, last * kGroupOutputs);
         begin += kGroupOutputs) {
      const std::int64_t outputs = std::min(kGroupOutputs, n - begin);
      const std::uint8_t* panels = w + begin / t2::kRows * t2::panel_bytes(x.k);
      for (std::int64_t row = 0; row < x.rows; row += kRoundedRows) {
        const std::int64_t count = std::min(kRoundedRows, x.rows - row), at = row * n + begin;
        float* out = is_half ? exact.data() : static_cast<float*>(y) + at;
        const std::int64_t stride = is_half ? kGroupOutputs : n;
        table.gemm_s8_t2(q + row * x.stride, x.stride, q_scale + row, x.sums.data() + row, count,
                         panels, w_scale, x.k, 0, outputs, out, stride);
        for (std::int64_t i = 0; bias != nullptr && i < count; ++i) {
          for (std::int64_t j = 0; j < outputs; ++j) out[i * stride + j] += bias[begin + j];
        }
        for (std::int64_t i = 0; is_half && i < count; ++i) {
          table.round_to_bf16(out + i * stride, outputs,
                              static_cast<std::uint16_t*>(y) + at + i * n);
        }
      }
    }
  });
}

void check_packed(const Tensor& packed, const Tensor& scale, std::int64_t n, std::int64_t k,
                  const char* op) {
  STD_TORCH_CHECK(n >= 1 && k >= 1 && packed.scalar_type() == ScalarType::Byte &&
                      packed.is_contiguous() && packed.numel() == t2::size_bytes(n, k),
                  op, ": packed must be a t2 matrix of ", n, " x ", k);
  STD_TORCH_CHECK(scale.numel() == 1, op, ": scale must be one number");
}

std::tuple<Tensor, Tensor, Tensor> ternary_linear_codes(const Tensor& x_in, const Tensor& packed,
                                                        const Tensor& scale, std::int64_t n,
                                                        const std::optional<Tensor>& bias_in,
                                                        ScalarType dtype,
                                                        const std::optional<Tensor>& gain_in,
                                                        double eps) {
  const char* op = "ternary_linear_codes";
  const auto [rows, k] = rows_of(x_in, op);
  const TrainType type = train_type(dtype, op);
  check_packed(packed, scale, n, k, op);
  STD_TORCH_CHECK(!bias_in || bias_in->numel() == n, op, ": bias must have ", n, " elements");
  const std::optional<Tensor> bias =
      bias_in ? std::optional<Tensor>(as_float(*bias_in)) : std::nullopt;
  STD_TORCH_CHECK(!gain_in || gain_in->numel() == k, op, ": gain must have ", k, " elements");
  const std::optional<Tensor> gain =
      gain_in ? std::optional<Tensor>(as_float(*gain_in)) : std::nullopt;
  const float* gains = gain ? gain->const_data_ptr<float>() : nullptr;
  CodedRows x(rows, k);
  const KernelTable& table = kernels();
  x.fill(TrainMatrix(x_in), [&](const float* from, float* normed, std::int64_t, std::int8_t* q,
                                float* q_scale, std::int32_t* sum) {
    if (gains == nullptr) {
      table.quantize_act_int8(from, x.k, 1, x.k, q, x.stride, q_scale, sum);
    } else {
      table.rms_norm_quantize(from, gains, x.k, static_cast<float>(eps), normed, q, x.stride,
                              q_scale, sum);
    }
  });
  auto shape = shape_of(x_in);
  shape.back() = n;
  Tensor y = empty(shape, dtype);
  multiply(x, packed, scale, n, bias ? bias->const_data_ptr<float>() : nullptr, type,
           y.mutable_data_ptr());
  return {y, x.codes, x.scales};
}

Tensor ternary_input_grad(const Tensor& grad_in, const Tensor& packed, const Tensor& scale,
                          std::int64_t k, std::int64_t seed, ScalarType dtype) {
  const char* op = "ternary_input_grad";
  const auto [rows, n] = rows_of(grad_in, op);
  const TrainType type = train_type(dtype, op);
  check_packed(packed, scale, n, k, op);
  Tensor transposed = empty({packed.numel()}, ScalarType::Byte);
  const auto* from = packed.const_data_ptr<std::uint8_t>();
  auto* to = transposed.mutable_data_ptr<std::uint8_t>();
  const std::int64_t down = t2::panels(n), across = t2::blocks(k);
  parallel(across, kGrainElements / (down * 256), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t j = begin; j < end; ++j) {
      for (std::int64_t i = 0; i < down; ++i) {
        t2::transpose_block(from + (i * across + j) * t2::kBlockBytes,
                            to + (j * down + i) * t2::kBlockBytes);
      }
    }
  });
  CodedRows grad(rows, n);
  const KernelTable& table = kernels();
  const auto first_seed = static_cast<std::uint32_t>(seed);
  grad.fill(TrainMatrix(grad_in), [&](const float* values, float*, std::int64_t row, std::int8_t* q,
                                      float* q_scale, std::int32_t* sum) {
    // Seeds of one call lie apart by an odd constant, so that rows share no stretch of numbers.
    const std::uint32_t row_seed = first_seed + static_cast<std::uint32_t>(row) * 0x9e3779b9u;
    table.quantize_stochastic(values, grad.k, row_seed, q, grad.stride, q_scale, sum);
  });
  auto shape = shape_of(grad_in);
  shape.back() = k;
  Tensor out = empty(shape, dtype);
  multiply(grad, transposed, scale, k, nullptr, type, out.mutable_data_ptr());
  return out;
}

// q_scale q of the first k columns, in float32 or bfloat16.
Tensor dequantize(const Tensor& codes, const Tensor& scales, std::int64_t k, TrainType type) {
  const std::int64_t rows = codes.size(0), stride = codes.size(1);
  const auto* q = codes.const_data_ptr<std::int8_t>();
  const auto* scale = scales.const_data_ptr<float>();
  const bool is_half = type == TrainType::bf16;
  Tensor out = empty({rows, k}, is_half ? ScalarType::BFloat16 : ScalarType::Float);
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  const std::int64_t row_bytes = k * (is_half ? 2 : 4);
  const KernelTable& table = kernels();
  parallel(rows, kGrainElements / k, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      table.dequantize_s8(q + row * stride, k, scale[row], to + row * row_bytes, type);
    }
  });
  return out;
}

// Rows whose pairs are packed and multiplied together: two panels of B stay in a first-level cache
// beside one of A, or in a small second-level one.
constexpr std::int64_t kPairedRows = 1024;

// out [n, k] = grad^T x for bfloat16 grad [rows, n] and the codes of x.
void multiply_pairs(const PairKernels& kernels, const Tensor& grad, const Tensor& codes,
                    const Tensor& scales, std::int64_t k, float* out) {
  const std::int64_t rows = grad.size(0), n = grad.size(1), stride = codes.size(1);
  const auto* from = static_cast<const std::uint16_t*>(grad.const_data_ptr());
  const auto* q = codes.const_data_ptr<std::int8_t>();
  const auto* scale = scales.const_data_ptr<float>();
  const std::int64_t down = (n + kPairColumns - 1) / kPairColumns;
  const std::int64_t across = (k + kPairColumns - 1) / kPairColumns;
  const std::int64_t panel = (std::min(rows, kPairedRows) + 1) / 2 * kPairColumns;
  Tensor panels = empty({(down + across) * panel}, ScalarType::Int);
  auto* a = static_cast<std::uint32_t*>(panels.mutable_data_ptr());
  std::uint32_t* b = a + down * panel;
  for (std::int64_t row = 0; row < rows; row += kPairedRows) {
    const std::int64_t count = std::min(kPairedRows, rows - row), pairs = (count + 1) / 2;
    const std::int64_t used = pairs * kPairColumns;
    parallel(down + across, kGrainElements / used, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t column = (i < down ? i : i - down) * kPairColumns;
        if (i < down) {
          kernels.pack_bf16(from + row * n + column, n, count, std::min(kPairColumns, n - column),
                            a + i * used);
        } else {
          kernels.pack_s8(q + row * stride + column, stride, scale + row, count,
                          std::min(kPairColumns, k - column), b + (i - down) * used);
        }
      }
    });
    parallel(down, kGrainElements / (used * k), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t column = 0; column < k; column += 2 * kPairColumns) {
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t first = i * kPairColumns;
          kernels.multiply(a + i * used, b + column / kPairColumns * used, pairs,
                           std::min(kPairColumns, n - first),
                           std::min(2 * kPairColumns, k - column), row > 0,
                           out + first * k + column, k);
        }
      }
    });
  }
}

Tensor ternary_weight_grad(const Tensor& grad_in, const Tensor& codes_in, const Tensor& scales_in,
                           std::int64_t k) {
  const char* op = "ternary_weight_grad";
  const auto [rows, n] = rows_of(grad_in, op);
  STD_TORCH_CHECK(
      codes_in.dim() == 2 && codes_in.scalar_type() == ScalarType::Char &&
          scales_in.scalar_type() == ScalarType::Float && k >= 1 && k <= codes_in.size(1) &&
          codes_in.size(0) == rows && scales_in.numel() == rows,
      op, ": expected int8 codes [", rows, ", >= ", k, "] and float32 scales [", rows, "]");
  const Tensor codes = as_contiguous(codes_in), scales = as_contiguous(scales_in);
  const TrainMatrix wide(torch::stable::reshape(grad_in, {rows, n}));
  const PairKernels* pairs = wide.type == TrainType::bf16 && rows > 0 ? pair_kernels() : nullptr;
  if (pairs == nullptr) {
    const Tensor x = dequantize(codes, scales, k, wide.type);
    return as_float(torch::stable::matmul(torch::stable::transpose(wide.tensor, 0, 1), x));
  }
  Tensor out = empty({n, k}, ScalarType::Float);
  multiply_pairs(*pairs, wide.tensor, codes, scales, k, out.mutable_data_ptr<float>());
  return out;
}

Tensor round_ternary(const Tensor& w_in, const Tensor& scale_in, ScalarType dtype) {
  const TrainType type = train_type(dtype, "round_ternary");
  STD_TORCH_CHECK(w_in.dim() == 2 && w_in.numel() > 0 && scale_in.numel() == 1,
                  "round_ternary: expected a weight [N, K] that is not empty and its scale");
  const Tensor w = as_float(w_in);
  const std::int64_t n = w.size(0), k = w.size(1);
  const float scale = *as_float(scale_in).const_data_ptr<float>();
  const float* from = w.const_data_ptr<float>();
  Tensor out = empty({n, k}, dtype);
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  const std::int64_t row_bytes = k * (type == TrainType::bf16 ? 2 : 4);
  const KernelTable& table = kernels();
  parallel(n, kGrainElements / k, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::int8_t> codes(static_cast<std::size_t>(k));
    for (std::int64_t row = begin; row < end; ++row) {
      table.ternary_codes(from + row * k, k, scale, codes.data());
      table.dequantize_s8(codes.data(), k, scale, to + row * row_bytes, type);
    }
  });
  return out;
}

}  // namespace
}  // namespace wf::ops

STABLE_TORCH_LIBRARY_IMPL(wrinklefree, CPU, m) {
  m.impl("ternary_pack", TORCH_BOX(&wf::ops::ternary_pack));
  m.impl("ternary_linear_codes", TORCH_BOX(&wf::ops::ternary_linear_codes));
  m.impl("ternary_input_grad", TORCH_BOX(&wf::ops::ternary_input_grad));
  m.impl("ternary_weight_grad", TORCH_BOX(&wf::ops::ternary_weight_grad));
  m.impl("round_ternary", TORCH_BOX(&wf::ops::round_ternary));
}
