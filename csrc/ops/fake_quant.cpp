// Quantize-dequantize for training, blended by lambda: v + lam * (Q(v) - v). The straight-through
// backward (the gradient itself) is registered in ops.py.
#include "tensors.h"

namespace wf::ops {
namespace {

// Results larger than this are written around the caches: no reader would find them there.
constexpr std::int64_t kCachedBytes = 32 << 20;

Tensor fake_quant_ternary(const Tensor& w_in, double lam) {
  STD_TORCH_CHECK(w_in.dim() == 2 && w_in.numel() > 0,
                  "fake_quant_ternary: expected a weight [N, K] that is not empty");
  const TrainMatrix w(w_in);
  const KernelTable& table = kernels();
  const std::int64_t n = w_in.size(0), k = w_in.size(1), bytes = w.element_bytes();
  const float scale = absmean(w, n, k);
  Tensor out = empty({n, k}, w.tensor.scalar_type());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  parallel(n, kGrainElements / k, [&](std::int64_t begin, std::int64_t end) {
    table.fake_quant_ternary(w.at(begin * k), w.type, (end - begin) * k, scale,
                             static_cast<float>(lam), n * k * bytes > kCachedBytes,
                             to + begin * k * bytes);
  });
  return w_in.scalar_type() == out.scalar_type() ? out : torch::stable::to(out, w_in.scalar_type());
}

Tensor fake_quant_act(const Tensor& x_in, double lam) {
  const auto [rows, k] = rows_of(x_in, "fake_quant_act");
  const TrainMatrix x(x_in);
  const KernelTable& table = kernels();
  const std::int64_t bytes = x.element_bytes();
  Tensor out = empty(shape_of(x_in), x.tensor.scalar_type());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  const bool around_cache = rows * k * bytes > kCachedBytes;
  parallel(rows, kGrainElements / k, [&, k = k](std::int64_t begin, std::int64_t end) {
    table.fake_quant_act(x.at(begin * k), x.type, end - begin, k, static_cast<float>(lam),
                         around_cache, to + begin * k * bytes);
  });
  return x_in.scalar_type() == out.scalar_type() ? out : torch::stable::to(out, x_in.scalar_type());
}

}  // namespace
}  // namespace wf::ops

STABLE_TORCH_LIBRARY_IMPL(wrinklefree, CPU, m) {
  m.impl("fake_quant_ternary", TORCH_BOX(&wf::ops::fake_quant_ternary));
  m.impl("fake_quant_act", TORCH_BOX(&wf::ops::fake_quant_act));
}
