// ternary_linear and its integer sums, from weights in the layouts that kernels run on.
#include <algorithm>
#include <string>

#include "layout/lut.h"
#include "layout/t1.h"
#include "layout/t2.h"
#include "tensors.h"

namespace wf::ops {
namespace {

enum class Layout { t2, t1, lut };

// Packed weights [n, k] of a layout that the kernels run on.
struct Weights {
  Layout layout;
  const std::uint8_t* bytes;
  std::int64_t n, k;

  Weights(const Tensor& packed, const std::string& name, std::int64_t n_in, std::int64_t k_in)
      : layout(name == "t1"    ? Layout::t1
               : name == "lut" ? Layout::lut
                               : Layout::t2),
        bytes(packed.const_data_ptr<std::uint8_t>()),
        n(n_in),
        k(k_in) {
    STD_TORCH_CHECK(name == "t2" || name == "t1" || name == "lut",
                    "ternary_linear: no kernel runs on layout '", name,
                    "'; there are t2, t1 and lut");
    STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.is_contiguous(),
                    "ternary_linear: packed must be contiguous uint8");
    const std::int64_t size = layout == Layout::t2   ? t2::size_bytes(n, k)
                              : layout == Layout::t1 ? t1::size_bytes(n, k)
                                                     : lut::size_bytes(n, k);
    STD_TORCH_CHECK(n >= 1 && packed.numel() == size, "ternary_linear: ", packed.numel(),
                    " packed bytes, but a ", name, " matrix of ", n, " x ", k, " has ", size);
  }

  std::int64_t panel_rows() const { return layout == Layout::lut ? lut::kRows : t2::kRows; }
};

// Output columns are cut at panel borders, whatever the number of threads.
template <class Body>
void over_panels(const Weights& w, std::int64_t rows, const Body& body) {
  const std::int64_t height = w.panel_rows();
  const std::int64_t grain = kGrainElements / std::max<std::int64_t>(1, rows * w.k * height);
  parallel((w.n + height - 1) / height, grain, [&](std::int64_t begin, std::int64_t end) {
    body(begin * height, std::min(w.n, end * height));
  });
}

// Activations as the kernels want them: padded rows, then the scale and the sum of each, in one
// block of memory.
struct Activations {
  static constexpr std::int64_t kRowBytes = sizeof(float) + sizeof(std::int32_t);

  std::int64_t stride;
  Tensor memory;
  std::int8_t* q;
  float* scale;
  std::int32_t* sum;

  Activations(std::int64_t rows, std::int64_t k)
      : stride(act_stride(k)),
        memory(empty({rows * (stride + kRowBytes)}, ScalarType::Byte)),
        q(static_cast<std::int8_t*>(memory.mutable_data_ptr())),
        scale(reinterpret_cast<float*>(q + rows * stride)),
        sum(reinterpret_cast<std::int32_t*>(scale + rows)) {}
};

// Lookup tables are 16 times as large as the activations: they are made for some rows at a time,
// which a second-level cache holds.
constexpr std::int64_t kTableBlockBytes = 1 << 20;

// Runs product(tables, first, count) on the tables of the rows [first, first + count).
template <class Product>
void over_table_rows(const KernelTable& table, const Activations& act, std::int64_t rows,
                     std::int64_t k, const Product& product) {
  const std::int64_t bytes = lut::tables_bytes(k);
  const std::int64_t block = std::min(rows, std::max<std::int64_t>(1, kTableBlockBytes / bytes));
  Tensor tables = empty({block, bytes}, ScalarType::Byte);
  auto* to = tables.mutable_data_ptr<std::uint8_t>();
  for (std::int64_t first = 0; first < rows; first += block) {
    const std::int64_t count = std::min(block, rows - first);
    parallel(count, kGrainElements / bytes, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        table.lut_tables(act.q + (first + row) * act.stride, k, to + row * bytes);
      }
    });
    product(to, first, count);
  }
}

Tensor ternary_linear(const Tensor& x_in, const Tensor& packed, const Tensor& scale, std::int64_t n,
                      const std::optional<Tensor>& bias_in, const std::string layout) {
  const auto [rows, k] = rows_of(x_in, "ternary_linear");
  const Weights w(packed, layout, n, k);
  STD_TORCH_CHECK(scale.numel() == 1, "ternary_linear: scale must be one number");
  STD_TORCH_CHECK(!bias_in || bias_in->numel() == n, "ternary_linear: bias must have ", n,
                  " elements");
  const KernelTable& table = kernels();
  const Tensor x = as_float(x_in);
  const float w_scale = *as_float(scale).const_data_ptr<float>();
  const Activations act(rows, k);
  const float* from = x.const_data_ptr<float>();
  parallel(rows, kGrainElements / k, [&](std::int64_t begin, std::int64_t end) {
    table.quantize_act_int8(from + begin * k, k, end - begin, k, act.q + begin * act.stride,
                            act.stride, act.scale + begin, act.sum + begin);
  });

  auto shape = shape_of(x);
  shape.back() = n;
  Tensor y = empty(shape, ScalarType::Float);
  auto* to = y.mutable_data_ptr<float>();
  const std::optional<Tensor> bias =
      bias_in ? std::optional<Tensor>(as_float(*bias_in)) : std::nullopt;
  const float* b = bias ? bias->const_data_ptr<float>() : nullptr;
  const auto add_bias = [&](std::int64_t first, std::int64_t count, std::int64_t begin,
                            std::int64_t end) {
    if (b == nullptr) return;
    for (std::int64_t row = first; row < first + count; ++row) {
      for (std::int64_t j = begin; j < end; ++j) to[row * n + j] += b[j];
    }
  };
  if (w.layout == Layout::lut) {
    over_table_rows(table, act, rows, k,
                    [&, k = k](const std::uint8_t* tables, std::int64_t first, std::int64_t count) {
                      over_panels(w, count, [&](std::int64_t begin, std::int64_t end) {
                        table.gemm_lut(tables, act.scale + first, count, w.bytes, w_scale, k, begin,
                                       end, to + first * n, n);
                        add_bias(first, count, begin, end);
                      });
                    });
  } else {
    const auto product = w.layout == Layout::t1 ? table.gemm_s8_t1 : table.gemm_s8_t2;
    over_panels(w, rows, [&, k = k, rows = rows](std::int64_t begin, std::int64_t end) {
      product(act.q, act.stride, act.scale, act.sum, rows, w.bytes, w_scale, k, begin, end, to, n);
      add_bias(0, rows, begin, end);
    });
  }
  return x_in.scalar_type() == ScalarType::Float ? y : torch::stable::to(y, x_in.scalar_type());
}

Tensor ternary_matmul_int32(const Tensor& q_in, const Tensor& packed, std::int64_t n,
                            const std::string layout) {
  STD_TORCH_CHECK(q_in.dim() == 2 && q_in.scalar_type() == ScalarType::Char,
                  "ternary_matmul_int32: q must be int8 [M, K]");
  const auto [rows, k] = rows_of(q_in, "ternary_matmul_int32");
  const Weights w(packed, layout, n, k);
  const KernelTable& table = kernels();
  const Tensor source = as_contiguous(q_in);
  const auto* from = source.const_data_ptr<std::int8_t>();
  const Activations act(rows, k);
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int8_t* to = act.q + row * act.stride;
    std::copy_n(from + row * k, k, to);
    std::fill(to + k, to + act.stride, std::int8_t{0});
    act.sum[row] = 0;
    for (std::int64_t column = 0; column < k; ++column) act.sum[row] += to[column];
  }
  Tensor acc = empty({rows, n}, ScalarType::Int);
  auto* out = acc.mutable_data_ptr<std::int32_t>();
  if (w.layout == Layout::lut) {
    over_table_rows(table, act, rows, k,
                    [&, k = k](const std::uint8_t* tables, std::int64_t first, std::int64_t count) {
                      over_panels(w, count, [&](std::int64_t begin, std::int64_t end) {
                        table.gemm_lut_i32(tables, count, w.bytes, k, begin, end, out + first * n,
                                           n);
                      });
                    });
  } else {
    const auto product = w.layout == Layout::t1 ? table.gemm_s8_t1_i32 : table.gemm_s8_t2_i32;
    over_panels(w, rows, [&, k = k, rows = rows](std::int64_t begin, std::int64_t end) {
      product(act.q, act.stride, act.sum, rows, w.bytes, k, begin, end, out, n);
    });
  }
  return acc;
}

}  // namespace
}  // namespace wf::ops

STABLE_TORCH_LIBRARY_IMPL(wrinklefree, CPU, m) {
  m.impl("ternary_linear", TORCH_BOX(&wf::ops::ternary_linear));
  m.impl("ternary_matmul_int32", TORCH_BOX(&wf::ops::ternary_matmul_int32));
}
