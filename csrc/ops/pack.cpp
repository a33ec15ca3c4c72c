// pack_ternary and unpack_ternary for every byte layout.
#include <string>
#include <tuple>

#include "layout/hf_packed.h"
#include "layout/i2s.h"
#include "layout/lut.h"
#include "layout/q4_0.h"
#include "layout/t1.h"
#include "layout/t2.h"
#include "layout/tq1_0.h"
#include "layout/tq2_0.h"
#include "tensors.h"

namespace wf::ops {
namespace {

std::int64_t size_bytes(const std::string& layout, std::int64_t n, std::int64_t k) {
  if (layout == "t2") return t2::size_bytes(n, k);
  if (layout == "t1") return t1::size_bytes(n, k);
  if (layout == "lut") return lut::size_bytes(n, k);
  if (layout == "i2s") return i2s::size_bytes(n, k);
  if (layout == "tq1_0") return tq1_0::size_bytes(n, k);
  if (layout == "tq2_0") return tq2_0::size_bytes(n, k);
  if (layout == "q4_0") return q4_0::size_bytes(n, k);
  if (layout == "hf") return hf_packed::size_bytes(n, k);
  STD_TORCH_CHECK(false, "unknown layout '", layout,
                  "'; there are t2, t1, lut, i2s, tq1_0, tq2_0, q4_0 and hf");
}

std::int64_t checked_size(const std::string& layout, std::int64_t n, std::int64_t k) {
  STD_TORCH_CHECK(n >= 1 && k >= 1, "a ternary matrix has at least one row and column, not ", n,
                  " x ", k);
  const std::int64_t bytes = size_bytes(layout, n, k);
  STD_TORCH_CHECK(bytes >= 0, "layout ", layout, " cannot hold a ", n, " x ", k,
                  " matrix: rows must be whole blocks (tq1_0, tq2_0: 256, q4_0: 32; i2s: n * k a "
                  "multiple of 128)");
  return bytes;
}

Tensor pack_ternary(const Tensor& codes_in, const Tensor& scale_in, const std::string layout) {
  STD_TORCH_CHECK(codes_in.dim() == 2 && codes_in.scalar_type() == ScalarType::Char,
                  "pack_ternary: codes must be int8 [N, K]");
  STD_TORCH_CHECK(scale_in.numel() == 1, "pack_ternary: scale must be one number");
  const Tensor codes_tensor = as_contiguous(codes_in);
  const std::int64_t n = codes_in.size(0), k = codes_in.size(1);
  const auto* codes = codes_tensor.const_data_ptr<std::int8_t>();
  for (std::int64_t i = 0; i < n * k; ++i) {
    STD_TORCH_CHECK(codes[i] >= -1 && codes[i] <= 1, "pack_ternary: code ", int{codes[i]},
                    " at element ", i, "; codes are -1, 0 and 1");
  }
  const float scale = *as_float(scale_in).const_data_ptr<float>();
  Tensor packed = empty({checked_size(layout, n, k)}, ScalarType::Byte);
  auto* to = packed.mutable_data_ptr<std::uint8_t>();
  if (layout == "t2") t2::pack(codes, n, k, to);
  if (layout == "t1") t1::pack(codes, n, k, to);
  if (layout == "lut") lut::pack(codes, n, k, to);
  if (layout == "i2s") i2s::pack(codes, n, k, scale, to);
  if (layout == "tq1_0") tq1_0::pack(codes, n, k, scale, to);
  if (layout == "tq2_0") tq2_0::pack(codes, n, k, scale, to);
  if (layout == "q4_0") q4_0::pack(codes, n, k, scale, to);
  if (layout == "hf") hf_packed::pack(codes, n, k, to);
  return packed;
}

std::tuple<Tensor, Tensor> unpack_ternary(const Tensor& packed_in, const std::string layout,
                                          std::int64_t n, std::int64_t k) {
  const std::int64_t bytes = checked_size(layout, n, k);
  STD_TORCH_CHECK(packed_in.scalar_type() == ScalarType::Byte && packed_in.numel() == bytes,
                  "unpack_ternary: a ", n, " x ", k, " matrix in layout ", layout, " has ", bytes,
                  " bytes (uint8), not ", packed_in.numel());
  const Tensor packed = as_contiguous(packed_in);
  const auto* from = packed.const_data_ptr<std::uint8_t>();
  Tensor codes_out = empty({n, k}, ScalarType::Char);
  auto* codes = codes_out.mutable_data_ptr<std::int8_t>();
  float scale = 1.0f;
  bool is_valid = true;
  BlockScale block_scale;
  if (layout == "t2" || layout == "t1" || layout == "lut") {
    const auto unpack_row = layout == "t2"   ? t2::unpack_row
                            : layout == "t1" ? t1::unpack_row
                                             : lut::unpack_row;
    for (std::int64_t r = 0; r < n; ++r) is_valid &= unpack_row(from, r, k, codes + r * k);
  } else if (layout == "hf") {
    for (std::int64_t r = 0; r < n; ++r) {
      is_valid &= hf_packed::unpack_row(from, r, n, k, codes + r * k);
    }
  } else if (layout == "i2s") {
    is_valid = i2s::unpack(from, 0, n * k, codes);
    scale = i2s::load_scale(from, n, k);
  } else {
    is_valid = layout == "tq1_0"   ? tq1_0::unpack(from, n * k, codes, block_scale)
               : layout == "tq2_0" ? tq2_0::unpack(from, n * k, codes, block_scale)
                                   : q4_0::unpack(from, n * k, codes, block_scale);
    scale = block_scale.value();
  }
  STD_TORCH_CHECK(is_valid, "unpack_ternary: these ", layout,
                  " bytes hold no ternary matrix with one scale");
  Tensor scale_out = empty({}, ScalarType::Float);
  *scale_out.mutable_data_ptr<float>() = scale;
  return {codes_out, scale_out};
}

}  // namespace
}  // namespace wf::ops

STABLE_TORCH_LIBRARY_IMPL(wrinklefree, CPU, m) {
  m.impl("pack_ternary", TORCH_BOX(&wf::ops::pack_ternary));
  m.impl("unpack_ternary", TORCH_BOX(&wf::ops::unpack_ternary));
}
