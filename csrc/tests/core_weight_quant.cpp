// Absmean ternary quantization on every table.
#include <gtest/gtest.h>

#include <cmath>

#include "core_problem.h"

namespace wf::test {
namespace {

class WeightQuant : public testing::TestWithParam<const KernelTable*> {};

TEST_P(WeightQuant, SumHasOneOrderOnEveryTable) {
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  for (int count : {1, 15, 16, 17, 100, 2560}) {
    std::vector<float> w(static_cast<std::size_t>(count));
    for (float& v : w) v = normal(rng);
    long double exact = 0;
    for (float v : w) exact += std::fabs(static_cast<long double>(v));
    const double sum = GetParam()->sum_abs(w.data(), TrainType::f32, count);
    EXPECT_EQ(sum, find("scalar")->sum_abs(w.data(), TrainType::f32, count));
    EXPECT_NEAR(sum, static_cast<double>(exact), 1e-13 * static_cast<double>(exact));
  }
}

TEST_P(WeightQuant, CodesRoundHalfToEvenAndSaturate) {
  // Scale 2 makes the ties exact: 1 -> 0.5 -> 0, 3 -> 1.5 -> clamped to 1.
  const std::vector<float> w = {0.0f,  1.0f,  1.0001f, -1.0f,  -1.0001f, 3.0f,
                                -3.0f, 1e30f, -1e30f,  1e-40f, 2.0f,     -2.0f};
  const std::vector<std::int8_t> expected = {0, 0, 1, 0, -1, 1, -1, 1, -1, 0, 1, -1};
  std::vector<std::int8_t> codes(w.size(), 99);
  GetParam()->ternary_codes(w.data(), static_cast<std::int64_t>(w.size()), 2.0f, codes.data());
  EXPECT_EQ(codes, expected);
}

TEST_P(WeightQuant, CodesEqualTheFormula) {
  std::mt19937 rng(6);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> w(1001);
  for (float& v : w) v = normal(rng);
  const float scale = 0.0159f;
  std::vector<std::int8_t> codes(w.size());
  GetParam()->ternary_codes(w.data(), 1001, scale, codes.data());
  for (std::size_t i = 0; i < w.size(); ++i) {
    const float v = std::nearbyintf(w[i] * (1.0f / scale));
    EXPECT_EQ(codes[i], static_cast<int>(std::fmin(std::fmax(v, -1.0f), 1.0f)));
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, WeightQuant, testing::ValuesIn(tables()),
                         [](const auto& info) { return table_name(info.param); });

}  // namespace
}  // namespace wf::test
