// quantize_act_int8 and ternary_quantize.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "tensors.h"

namespace wf::ops {

float absmean(const TrainMatrix& w, std::int64_t n, std::int64_t k) {
  const KernelTable& table = kernels();
  std::vector<double> sums(static_cast<std::size_t>(n));
  parallel(n, kGrainElements / k, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      sums[static_cast<std::size_t>(row)] = table.sum_abs(w.at(row * k), w.type, k);
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  const auto mean = static_cast<float>(total / (static_cast<double>(n) * static_cast<double>(k)));
  STD_TORCH_CHECK(std::isfinite(mean), "ternary_quantize: the weight holds NaN or infinity");
  return std::max(mean, 1e-5f);
}

static std::tuple<Tensor, Tensor> quantize_act_int8(const Tensor& x_in) {
  const auto [rows, k] = rows_of(x_in, "quantize_act_int8");
  const Tensor x = as_float(x_in);
  const KernelTable& table = kernels();
  auto shape = shape_of(x);
  Tensor q = empty(shape, ScalarType::Char);
  shape.pop_back();
  Tensor scale = empty(shape, ScalarType::Float);
  const float* from = x.const_data_ptr<float>();
  auto* to = q.mutable_data_ptr<std::int8_t>();
  auto* scales = scale.mutable_data_ptr<float>();
  parallel(rows, kGrainElements / k, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::int32_t sum = 0;
      table.quantize_act_int8(from + row * k, k, 1, k, to + row * k, k, scales + row, &sum);
    }
  });
  return {q, scale};
}

static std::tuple<Tensor, Tensor> ternary_quantize(const Tensor& w_in) {
  STD_TORCH_CHECK(w_in.dim() == 2 && w_in.numel() > 0,
                  "ternary_quantize: expected a weight [N, K] that is not empty");
  const Tensor w = as_float(w_in);
  const std::int64_t n = w.size(0), k = w.size(1);
  const float* from = w.const_data_ptr<float>();
  const float scale = absmean(TrainMatrix(w), n, k);
  const KernelTable& table = kernels();
  Tensor codes = empty({n, k}, ScalarType::Char);
  auto* to = codes.mutable_data_ptr<std::int8_t>();
  parallel(n, kGrainElements / k, [&](std::int64_t begin, std::int64_t end) {
    table.ternary_codes(from + begin * k, (end - begin) * k, scale, to + begin * k);
  });
  Tensor scale_out = empty({}, ScalarType::Float);
  *scale_out.mutable_data_ptr<float>() = scale;
  return {codes, scale_out};
}

}  // namespace wf::ops

STABLE_TORCH_LIBRARY_IMPL(wrinklefree, CPU, m) {
  m.impl("quantize_act_int8", TORCH_BOX(&wf::ops::quantize_act_int8));
  m.impl("ternary_quantize", TORCH_BOX(&wf::ops::ternary_quantize));
}
