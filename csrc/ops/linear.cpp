// ternary_linear and its integer sums, both from weights in the t2 layout.
#include <algorithm>

#include "layout/t2.h"
#include "tensors.h"

namespace wf::ops {
namespace {

// Output columns are cut at panel borders, whatever the number of threads.
template <class Body>
void over_panels(std::int64_t n, std::int64_t work_per_row, const Body& body) {
  const std::int64_t grain = kGrainElements / std::max<std::int64_t>(1, work_per_row * t2::kRows);
  parallel(t2::panels(n), grain, [&](std::int64_t begin, std::int64_t end) {
    body(begin * t2::kRows, std::min(n, end * t2::kRows));
  });
}

const std::uint8_t* checked_t2(const Tensor& packed, std::int64_t n, std::int64_t k) {
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.is_contiguous(),
                  "ternary_linear: packed must be contiguous uint8");
  STD_TORCH_CHECK(n >= 1 && packed.numel() == t2::size_bytes(n, k),
                  "ternary_linear: ", packed.numel(), " packed bytes, but a t2 matrix of ", n,
                  " x ", k, " has ", t2::size_bytes(n, k));
  return packed.const_data_ptr<std::uint8_t>();
}

// Activations as the kernels want them: padded rows and the sum of each.
struct Activations {
  std::int64_t stride;
  Tensor q, scale, sum;

  Activations(std::int64_t rows, std::int64_t k)
      : stride(act_stride(k)),
        q(empty({rows, stride}, ScalarType::Char)),
        scale(empty({rows}, ScalarType::Float)),
        sum(empty({rows}, ScalarType::Int)) {}
};

Tensor ternary_linear(const Tensor& x_in, const Tensor& packed, const Tensor& scale, std::int64_t n,
                      const std::optional<Tensor>& bias_in) {
  const auto [rows, k] = rows_of(x_in, "ternary_linear");
  const std::uint8_t* w = checked_t2(packed, n, k);
  STD_TORCH_CHECK(scale.numel() == 1, "ternary_linear: scale must be one number");
  STD_TORCH_CHECK(!bias_in || bias_in->numel() == n, "ternary_linear: bias must have ", n,
                  " elements");
  const KernelTable& table = kernels();
  const Tensor x = as_float(x_in);
  const float w_scale = *as_float(scale).const_data_ptr<float>();
  Activations act(rows, k);
  const float* from = x.const_data_ptr<float>();
  auto* q = act.q.mutable_data_ptr<std::int8_t>();
  auto* q_scale = act.scale.mutable_data_ptr<float>();
  auto* q_sum = act.sum.mutable_data_ptr<std::int32_t>();
  parallel(rows, kGrainElements / k, [&](std::int64_t begin, std::int64_t end) {
    table.quantize_act_int8(from + begin * k, k, end - begin, k, q + begin * act.stride, act.stride,
                            q_scale + begin, q_sum + begin);
  });

  auto shape = shape_of(x);
  shape.back() = n;
  Tensor y = empty(shape, ScalarType::Float);
  auto* to = y.mutable_data_ptr<float>();
  const std::optional<Tensor> bias =
      bias_in ? std::optional<Tensor>(as_float(*bias_in)) : std::nullopt;
  const float* b = bias ? bias->const_data_ptr<float>() : nullptr;
  over_panels(n, rows * k, [&](std::int64_t begin, std::int64_t end) {
    table.gemm_s8_t2(q, act.stride, q_scale, q_sum, rows, w, w_scale, n, k, begin, end, to, n);
    if (b == nullptr) return;
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t j = begin; j < end; ++j) to[row * n + j] += b[j];
    }
  });
  return x_in.scalar_type() == ScalarType::Float ? y : torch::stable::to(y, x_in.scalar_type());
}

Tensor ternary_matmul_int32(const Tensor& q_in, const Tensor& packed, std::int64_t n) {
  STD_TORCH_CHECK(q_in.dim() == 2 && q_in.scalar_type() == ScalarType::Char,
                  "ternary_matmul_int32: q must be int8 [M, K]");
  const auto [rows, k] = rows_of(q_in, "ternary_matmul_int32");
  const std::uint8_t* w = checked_t2(packed, n, k);
  const KernelTable& table = kernels();
  const Tensor source = as_contiguous(q_in);
  const auto* from = source.const_data_ptr<std::int8_t>();
  Activations act(rows, k);
  auto* q = act.q.mutable_data_ptr<std::int8_t>();
  auto* sum = act.sum.mutable_data_ptr<std::int32_t>();
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int8_t* to = q + row * act.stride;
    std::copy_n(from + row * k, k, to);
    std::fill(to + k, to + act.stride, std::int8_t{0});
    sum[row] = 0;
    for (std::int64_t column = 0; column < k; ++column) sum[row] += to[column];
  }
  Tensor acc = empty({rows, n}, ScalarType::Int);
  auto* out = acc.mutable_data_ptr<std::int32_t>();
  over_panels(n, rows * k, [&](std::int64_t begin, std::int64_t end) {
    table.gemm_s8_t2_i32(q, act.stride, sum, rows, w, n, k, begin, end, out, n);
  });
  return acc;
}

}  // namespace
}  // namespace wf::ops

STABLE_TORCH_LIBRARY_IMPL(wrinklefree, CPU, m) {
  m.impl("ternary_linear", TORCH_BOX(&wf::ops::ternary_linear));
  m.impl("ternary_matmul_int32", TORCH_BOX(&wf::ops::ternary_matmul_int32));
}
