// Pair products against float64, with memory that ends where the operands do.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core_problem.h"
#include "layout/half.h"

namespace wf::test {
namespace {

constexpr std::int64_t kColumns = 40, kOutputs = 13;

class Pairs : public testing::TestWithParam<std::int64_t> {};  // rows

TEST_P(Pairs, ProductsMatchFloat64) {
  const PairKernels* kernels = pair_kernels();
  if (kernels == nullptr) GTEST_SKIP() << "no bfloat16 dot products, or matrix units";
  const std::int64_t rows = GetParam(), pairs = (rows + 1) / 2, panel = pairs * kPairColumns;
  std::mt19937 rng(static_cast<unsigned>(rows));
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> grad(static_cast<std::size_t>(rows * kOutputs));
  for (std::uint16_t& v : grad) {
    v = static_cast<std::uint16_t>(__builtin_bit_cast(std::uint32_t, normal(rng)) >> 16);
  }
  std::vector<std::int8_t> q(static_cast<std::size_t>(rows * kColumns));
  for (std::int8_t& v : q) v = static_cast<std::int8_t>(static_cast<int>(rng() % 255) - 127);
  std::vector<float> scale(static_cast<std::size_t>(rows));
  for (float& v : scale) v = 0x1p-7f;  // with it the products of codes are exact in bfloat16

  const std::int64_t across = (kColumns + kPairColumns - 1) / kPairColumns;
  std::vector<std::uint32_t> a(static_cast<std::size_t>(panel), 0x7fc07fc0u);
  std::vector<std::uint32_t> b(static_cast<std::size_t>(across * panel), 0x7fc07fc0u);
  kernels->pack_bf16(grad.data(), kOutputs, rows, kOutputs, a.data());
  for (std::int64_t j = 0; j < across; ++j) {
    kernels->pack_s8(q.data() + j * kPairColumns, kColumns, scale.data(), rows,
                     std::min(kPairColumns, kColumns - j * kPairColumns), b.data() + j * panel);
  }
  std::vector<float> c(static_cast<std::size_t>(kOutputs * kColumns), NAN);
  for (const bool is_added : {false, true}) {
    kernels->multiply(a.data(), b.data(), pairs, kOutputs, kColumns, is_added, c.data(), kColumns);
    for (std::int64_t i = 0; i < kOutputs; ++i) {
      for (std::int64_t j = 0; j < kColumns; ++j) {
        double sum = 0, size = 0;
        for (std::int64_t r = 0; r < rows; ++r) {
          const auto at = static_cast<std::size_t>(r * kOutputs + i);
          const double product = double{half::bf16_to_f32(grad[at])} *
                                 q[static_cast<std::size_t>(r * kColumns + j)] * 0x1p-7;
          sum += product;
          size += std::fabs(product);
        }
        const double factor = is_added ? 2 : 1;
        ASSERT_NEAR(c[static_cast<std::size_t>(i * kColumns + j)], factor * sum,
                    factor * 2e-6 * size + 1e-12)
            << i << ", " << j;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Pairs, testing::Values(1, 2, 3, 64, 333));

}  // namespace
}  // namespace wf::test
