// int8 quantization of activations: every table against the formula in double-checked steps.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core_problem.h"

namespace wf::test {
namespace {

struct Quantized {
  std::vector<std::int8_t> q;
  std::vector<float> scale;
  std::vector<std::int32_t> sum;
};

Quantized quantize(const KernelTable& table, const std::vector<float>& x, std::int64_t rows,
                   std::int64_t k) {
  Quantized out;
  out.q.assign(static_cast<std::size_t>(rows * act_stride(k)), 99);
  out.scale.assign(static_cast<std::size_t>(rows), std::nanf(""));
  out.sum.assign(static_cast<std::size_t>(rows), 12345);
  table.quantize_act_int8(x.data(), k, rows, k, out.q.data(), act_stride(k), out.scale.data(),
                          out.sum.data());
  return out;
}

class ActQuant : public testing::TestWithParam<const KernelTable*> {
 protected:
  void expect_formula(const std::vector<float>& x, std::int64_t rows, std::int64_t k) {
    const Quantized got = quantize(*GetParam(), x, rows, k);
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* xr = x.data() + r * k;
      float absmax = 0;
      for (std::int64_t c = 0; c < k; ++c) absmax = std::fmax(absmax, std::fabs(xr[c]));
      const float a = std::fmax(absmax, 1e-5f);
      const float inverse = 127.0f / a;
      std::int32_t sum = 0;
      for (std::int64_t c = 0; c < act_stride(k); ++c) {
        float code = c < k ? std::nearbyintf(xr[c] * inverse) : 0.0f;
        code = std::fmin(std::fmax(code, -128.0f), 127.0f);
        ASSERT_EQ(got.q[static_cast<std::size_t>(r * act_stride(k) + c)], static_cast<int>(code))
            << "row " << r << " column " << c << " of " << k;
        sum += static_cast<std::int32_t>(code);
      }
      EXPECT_EQ(got.scale[static_cast<std::size_t>(r)], a / 127.0f);
      EXPECT_EQ(got.sum[static_cast<std::size_t>(r)], sum);
    }
  }
};

TEST_P(ActQuant, RandomRows) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  for (int k : {1, 3, 31, 64, 127, 128, 129, 576, 2560}) {
    std::vector<float> x(static_cast<std::size_t>(5 * k));
    for (float& v : x) v = normal(rng);
    expect_formula(x, 5, k);
  }
}

TEST_P(ActQuant, TiesGoToEven) {
  // absmax 127 makes the factor exactly 1.
  expect_formula({127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, -127.0f, 126.5f, -126.5f}, 1, 10);
}

TEST_P(ActQuant, TinyHugeAndZeroRows) {
  const float denormal = std::numeric_limits<float>::denorm_min();
  const float huge = std::numeric_limits<float>::max();
  std::vector<float> x;
  for (float value : {0.0f, -0.0f, 1e-30f, 1e-38f, 1e-8f, denormal, 6e4f, huge, -huge}) {
    x.insert(x.end(), {value, 0.0f, value / 2, 0.0f});
  }
  expect_formula(x, static_cast<std::int64_t>(x.size() / 4), 4);
}

TEST_P(ActQuant, NonFiniteRowPoisonsItselfOnly) {
  const float inf = std::numeric_limits<float>::infinity();
  for (float bad : {inf, -inf, std::nanf("")}) {
    const Quantized got = quantize(*GetParam(), {1, 2, 3, 1, bad, 3, 1, 2, 3}, 3, 3);
    EXPECT_TRUE(std::isnan(got.scale[1]));
    EXPECT_EQ(got.sum[1], 0);
    for (std::size_t r : {std::size_t{0}, std::size_t{2}}) {
      EXPECT_EQ(got.scale[r], 3.0f / 127.0f);
      EXPECT_EQ(got.q[r * 64 + 2], 127);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, ActQuant, testing::ValuesIn(tables()),
                         [](const auto& info) { return table_name(info.param); });

}  // namespace
}  // namespace wf::test
