// Quantize-dequantize for training, blended by lambda: v + lam * (Q(v) - v). The straight-through
// backward (the gradient itself) is registered in ops.py.
#include <algorithm>
#include <cmath>

#include "tensors.h"

namespace wf::ops {
namespace {

// Rounds |v| < 2^22 half to even, exactly, in a form that compilers vectorise.
inline float round_even(float v) {
  constexpr float kBias = 12582912.0f;  // 1.5 * 2^23
  return (v + kBias) - kBias;
}

Tensor fake_quant_ternary(const Tensor& w_in, double lam_in) {
  STD_TORCH_CHECK(w_in.dim() == 2 && w_in.numel() > 0,
                  "fake_quant_ternary: expected a weight [N, K] that is not empty");
  const Tensor w = as_float(w_in);
  const std::int64_t n = w.size(0), k = w.size(1);
  const float* from = w.const_data_ptr<float>();
  const float scale = absmean(from, n, k);
  const float inverse = 1.0f / scale, lam = static_cast<float>(lam_in);
  Tensor out = empty({n, k}, ScalarType::Float);
  auto* to = out.mutable_data_ptr<float>();
  parallel(n, kGrainElements / k, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * k; i < end * k; ++i) {
      const float code = round_even(std::min(std::max(from[i] * inverse, -1.0f), 1.0f));
      to[i] = lam == 1.0f ? code * scale : from[i] + lam * (code * scale - from[i]);
    }
  });
  return out;
}

Tensor fake_quant_act(const Tensor& x_in, double lam_in) {
  const auto [rows, k] = rows_of(x_in, "fake_quant_act");
  const Tensor x = as_float(x_in);
  const float lam = static_cast<float>(lam_in);
  Tensor out = empty(shape_of(x), ScalarType::Float);
  const float* from = x.const_data_ptr<float>();
  auto* to = out.mutable_data_ptr<float>();
  parallel(rows, kGrainElements / k, [&, k = k](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float* v = from + row * k;
      float most = 1e-5f;
      bool is_finite = true;
      for (std::int64_t i = 0; i < k; ++i) {
        most = std::max(most, std::fabs(v[i]));
        is_finite &= std::isfinite(v[i]);
      }
      const float inverse = 127.0f / most;
      const float step = is_finite ? most / 127.0f : NAN;
      for (std::int64_t i = 0; i < k; ++i) {
        const float q = round_even(v[i] * inverse) * step;
        to[row * k + i] = lam == 1.0f ? q : v[i] + lam * (q - v[i]);
      }
    }
  });
  return x_in.scalar_type() == ScalarType::Float ? out : torch::stable::to(out, x_in.scalar_type());
}

}  // namespace
}  // namespace wf::ops

STABLE_TORCH_LIBRARY_IMPL(wrinklefree, CPU, m) {
  m.impl("fake_quant_ternary", TORCH_BOX(&wf::ops::fake_quant_ternary));
  m.impl("fake_quant_act", TORCH_BOX(&wf::ops::fake_quant_act));
}
