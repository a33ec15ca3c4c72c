// RMS norm of training: rows of float32 or bfloat16, computed in float32, forward and backward in
// one pass each.
#include <algorithm>
#include <tuple>
#include <vector>

#include "tensors.h"

namespace wf::ops {
namespace {

// Rows whose shares of the gain's gradient are added in turn. Sums over rows are sums of these, in
// order: the same bits for any number of threads.
constexpr std::int64_t kChunkRows = 32;

Tensor gain_of(const Tensor& gain, std::int64_t k, const char* op) {
  STD_TORCH_CHECK(gain.numel() == k, op, ": gain must have ", k, " elements, got ", gain.numel());
  return as_float(gain);
}

// A fresh matrix of a TrainType, filled row by row as float32.
struct Result {
  Tensor tensor;
  TrainType type;
  std::int64_t k;
  char* first;

  Result(const std::vector<std::int64_t>& shape, const TrainMatrix& like, std::int64_t k_in)
      : tensor(empty(shape, like.dtype())),
        type(like.type),
        k(k_in),
        first(static_cast<char*>(tensor.mutable_data_ptr())) {}

  // Where to write the floats of a row: the row itself, or the scratch that `finish` rounds.
  float* begin(std::int64_t row, float* scratch) const {
    return type == TrainType::f32 ? reinterpret_cast<float*>(first) + row * k : scratch;
  }
  void finish(std::int64_t row, const float* scratch) const {
    if (type == TrainType::bf16) active().round_to_bf16(scratch, k, first + row * k * 2);
  }
  Tensor as(ScalarType dtype) const {
    return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
  }
};

Tensor rms_norm(const Tensor& x_in, const Tensor& gain_in, double eps) {
  const auto [rows, k] = rows_of(x_in, "rms_norm");
  const Tensor gain = gain_of(gain_in, k, "rms_norm");
  const auto* gains = gain.const_data_ptr<float>();
  const KernelTable& table = kernels();
  const TrainMatrix x(x_in);
  const Result y(shape_of(x_in), x, k);
  parallel(rows, kGrainElements / k, [&, k = k](std::int64_t begin, std::int64_t end) {
    std::vector<float> scratch(static_cast<std::size_t>(k));
    for (std::int64_t row = begin; row < end; ++row) {
      table.rms_norm(x.float_row(row, k, scratch.data()), gains, k, static_cast<float>(eps),
                     y.begin(row, scratch.data()));
      y.finish(row, scratch.data());
    }
  });
  return y.as(x_in.scalar_type());
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad_in, const Tensor& x_in,
                                             const Tensor& gain_in, double eps) {
  const char* op = "rms_norm_backward";
  const auto [rows, k] = rows_of(x_in, op);
  STD_TORCH_CHECK(grad_in.numel() == x_in.numel() && grad_in.size(-1) == k, op,
                  ": grad and x must have one shape");
  const Tensor gain = gain_of(gain_in, k, op);
  const auto* gains = gain.const_data_ptr<float>();
  const KernelTable& table = kernels();
  const TrainMatrix grad(grad_in), x(x_in);
  const Result x_grad(shape_of(x_in), x, k);
  const std::int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
  std::vector<float> shares(static_cast<std::size_t>(chunks * k));
  parallel(chunks, kGrainElements / (k * kChunkRows),
           [&, rows = rows, k = k](std::int64_t first, std::int64_t last) {
             std::vector<float> scratch(static_cast<std::size_t>(3 * k));
             float *wide_x = scratch.data(), *wide_grad = wide_x + k, *out = wide_grad + k;
             for (std::int64_t chunk = first; chunk < last; ++chunk) {
               const std::int64_t end = std::min(rows, (chunk + 1) * kChunkRows);
               for (std::int64_t row = chunk * kChunkRows; row < end; ++row) {
                 table.rms_norm_grad(x.float_row(row, k, wide_x), gains,
                                     grad.float_row(row, k, wide_grad), k, static_cast<float>(eps),
                                     x_grad.begin(row, out), shares.data() + chunk * k);
                 x_grad.finish(row, out);
               }
             }
           });
  Tensor gain_grad = empty({k}, ScalarType::Float);
  auto* sums = gain_grad.mutable_data_ptr<float>();
  std::fill_n(sums, k, 0.0f);
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (std::int64_t i = 0; i < k; ++i) sums[i] += shares[static_cast<std::size_t>(chunk * k + i)];
  }
  return {x_grad.as(x_in.scalar_type()), gain_grad};
}

}  // namespace
}  // namespace wf::ops

STABLE_TORCH_LIBRARY_IMPL(wrinklefree, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&wf::ops::rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&wf::ops::rms_norm_backward));
}
