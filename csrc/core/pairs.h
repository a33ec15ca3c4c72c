// Products that sum over rows, for processors with bfloat16 dot products of two: C += A^T B from
// panels of 16 columns. A panel holds pairs of rows one after the other, 16 columns times two
// numbers each; what a matrix lacks to a whole panel is zero. The rules of kernels.h hold.
#pragma once

#include <cstdint>

namespace wf {

constexpr std::int64_t kPairColumns = 16;

struct PairKernels {
  // Panel of the first `columns` <= 16 columns of some rows of bfloat16, or of int8 codes times the
  // scale of their row, rounded to bfloat16.
  void (*pack_bf16)(const std::uint16_t* x, std::int64_t stride, std::int64_t rows,
                    std::int64_t columns, std::uint32_t* panel) noexcept;
  void (*pack_s8)(const std::int8_t* q, std::int64_t stride, const float* scale, std::int64_t rows,
                  std::int64_t columns, std::uint32_t* panel) noexcept;
  // c [n, k] = (or +=) the product of a panel of n <= 16 columns with panels of k columns. The same
  // bits however k is cut.
  void (*multiply)(const std::uint32_t* a, const std::uint32_t* b, std::int64_t pairs,
                   std::int64_t n, std::int64_t k, bool is_added, float* c,
                   std::int64_t c_stride) noexcept;
};

}  // namespace wf
