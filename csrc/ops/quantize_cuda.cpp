// quantize_act_int8 for CUDA tensors. Part of libwf_ops_cuda.so: a torch without CUDA lacks
// symbols that this needs.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <tuple>

#include "launchers.h"
#include "tensors.h"

namespace wf::ops {

static std::tuple<Tensor, Tensor> quantize_act_int8_cuda(const Tensor& x_in) {
  using cuda::FloatType;
  const auto [rows, k] = rows_of(x_in, "quantize_act_int8");
  const auto device = x_in.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  // 16-bit types are read as they are: a float32 copy would triple the memory traffic.
  const ScalarType dtype = x_in.scalar_type();
  const FloatType type = dtype == ScalarType::Half       ? FloatType::f16
                         : dtype == ScalarType::BFloat16 ? FloatType::bf16
                                                         : FloatType::f32;
  const Tensor x = type == FloatType::f32 ? as_float(x_in) : as_contiguous(x_in);
  auto shape = shape_of(x);
  Tensor q = torch::stable::new_empty(x, shape, ScalarType::Char);
  shape.pop_back();
  Tensor scale = torch::stable::new_empty(x, shape, ScalarType::Float);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  const char* error =
      cuda::quantize_act_int8(x.const_data_ptr(), type, rows, k, q.mutable_data_ptr<std::int8_t>(),
                              scale.mutable_data_ptr<float>(), stream);
  STD_TORCH_CHECK(error == nullptr, "quantize_act_int8: ", error);
  return {q, scale};
}

}  // namespace wf::ops

STABLE_TORCH_LIBRARY_IMPL(wrinklefree, CUDA, m) {
  m.impl("quantize_act_int8", TORCH_BOX(&wf::ops::quantize_act_int8_cuda));
}
