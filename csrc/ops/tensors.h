// The little that every op needs of torch: checked float32 inputs, fresh outputs, row-wise threads.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "dispatch.h"
#include "kernels.h"

namespace wf::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The kernel table; a WF_ISA that cannot be honoured is the caller's error.
inline const KernelTable& kernels() {
  const char* error = isa_error();
  STD_TORCH_CHECK(error == nullptr, error);
  return active();
}

inline Tensor as_contiguous(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

// Any floating type and strides to contiguous float32.
inline Tensor as_float(const Tensor& t) {
  return as_contiguous(
      t.scalar_type() == ScalarType::Float ? t : torch::stable::to(t, ScalarType::Float));
}

inline std::vector<std::int64_t> shape_of(const Tensor& t) {
  return {t.sizes().begin(), t.sizes().end()};
}

// A fresh contiguous CPU tensor. torch::stable::empty finds the op by its name and boxes the
// arguments: 3 us a tensor instead of 1.4, which small calls notice.
inline Tensor empty(const std::vector<std::int64_t>& shape, ScalarType type) {
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t stride = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape[i] > 0 ? shape[i] : 1;
  }
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<std::int64_t>(shape.size()), shape.data(), strides.data(),
      torch::stable::detail::to<std::int32_t>(torch::stable::detail::from(type)),
      aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// Rows and columns of a tensor seen as a matrix over its last dimension.
struct Rows {
  std::int64_t rows, columns;
};

inline Rows rows_of(const Tensor& t, const char* op) {
  STD_TORCH_CHECK(t.dim() >= 1, op, ": expected at least one dimension");
  const std::int64_t columns = t.size(-1);
  STD_TORCH_CHECK(columns >= 1 && columns <= kMaxColumns, op, ": the last dimension is ", columns,
                  ", allowed are 1 to ", kMaxColumns);
  return {t.numel() / columns, columns};
}

// Runs body(begin, end) over [0, count) on torch's threads; a thread gets at least `grain`.
template <class Body>
void parallel(std::int64_t count, std::int64_t grain, const Body& body) {
  // torch 2.10 turns an exception in here into a useless text: bodies must not throw.
  torch::stable::parallel_for(0, count, grain < 1 ? 1 : grain, body);
}

// Elements that are worth waking another thread for.
constexpr std::int64_t kGrainElements = 32768;

// A matrix [n, k] to train: float32 and bfloat16 as they are, other types as float32.
struct TrainMatrix {
  Tensor tensor;
  TrainType type;

  explicit TrainMatrix(const Tensor& t)
      : tensor(t.scalar_type() == ScalarType::BFloat16 ? as_contiguous(t) : as_float(t)),
        type(t.scalar_type() == ScalarType::BFloat16 ? TrainType::bf16 : TrainType::f32) {}

  ScalarType dtype() const { return tensor.scalar_type(); }
  std::int64_t element_bytes() const { return type == TrainType::bf16 ? 2 : 4; }
  const char* at(std::int64_t element) const {
    return static_cast<const char*>(tensor.const_data_ptr()) + element * element_bytes();
  }
  // A row of k elements as float32; one of bfloat16 is written to `widened`.
  const float* float_row(std::int64_t row, std::int64_t k, float* widened) const {
    if (type == TrainType::f32) return reinterpret_cast<const float*>(at(row * k));
    active().widen_bf16(at(row * k), k, widened);
    return widened;
  }
};

// max(mean |w|, 1e-5), summed in float64 row by row in order: the same bits for any thread count.
float absmean(const TrainMatrix& w, std::int64_t n, std::int64_t k);

}  // namespace wf::ops
