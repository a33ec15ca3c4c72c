// GPTQ (arXiv 2210.17323, algorithm 1) for ternary codes: rounds column after column and takes the
// error of each out of the columns that are still to come.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "tensors.h"

namespace wf::ops {
namespace {

// Rows of w are independent; a group of them shares one pass over `spread`.
constexpr std::int64_t kRowsPerGroup = 8;

void round_rows(float* w, std::int64_t num_rows, const float* spread, std::int64_t k,
                float threshold, float level, std::int8_t* codes) {
  for (std::int64_t j = 0; j < k; ++j) {
    const float* s = spread + j * k;
    for (std::int64_t row = 0; row < num_rows; ++row) {
      float* v = w + row * k;
      const int code = std::fabs(v[j]) > threshold ? (v[j] > 0 ? 1 : -1) : 0;
      codes[row * k + j] = static_cast<std::int8_t>(code);
      const float error = (v[j] - level * static_cast<float>(code)) / s[j];
      for (std::int64_t i = j + 1; i < k; ++i) v[i] -= error * s[i];
    }
  }
}

std::tuple<Tensor, Tensor> gptq_round(const Tensor& w_in, const Tensor& spread_in, double threshold,
                                      double level) {
  STD_TORCH_CHECK(w_in.dim() == 2 && w_in.numel() > 0,
                  "gptq_round: expected a weight [N, K] that is not empty");
  const std::int64_t n = w_in.size(0), k = w_in.size(1);
  STD_TORCH_CHECK(spread_in.dim() == 2 && spread_in.size(0) == k && spread_in.size(1) == k,
                  "gptq_round: expected spread [", k, ", ", k, "]");
  const Tensor w = as_float(w_in), spread = as_float(spread_in);
  Tensor unrounded = empty({n, k}, ScalarType::Float);
  Tensor codes = empty({n, k}, ScalarType::Char);
  const float* from = w.const_data_ptr<float>();
  const float* s = spread.const_data_ptr<float>();
  auto* to = unrounded.mutable_data_ptr<float>();
  auto* code = codes.mutable_data_ptr<std::int8_t>();
  const std::int64_t num_groups = (n + kRowsPerGroup - 1) / kRowsPerGroup;
  parallel(num_groups, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t group = begin; group < end; ++group) {
      const std::int64_t first = group * kRowsPerGroup, rows = std::min(kRowsPerGroup, n - first);
      std::copy_n(from + first * k, rows * k, to + first * k);
      round_rows(to + first * k, rows, s, k, static_cast<float>(threshold),
                 static_cast<float>(level), code + first * k);
    }
  });
  return {unrounded, codes};
}

}  // namespace
}  // namespace wf::ops

STABLE_TORCH_LIBRARY_IMPL(wrinklefree, CPU, m) {
  m.impl("gptq_round", TORCH_BOX(&wf::ops::gptq_round));
}
