// Conversions and gradient quantization on every table against plain formulas.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core_problem.h"
#include "layout/half.h"

namespace wf::test {
namespace {

class Convert : public testing::TestWithParam<const KernelTable*> {};

float bf16_at(const std::vector<std::uint16_t>& words, std::size_t i) {
  return half::bf16_to_f32(words[i]);
}

TEST_P(Convert, CodesTimesScaleInBothTypes) {
  const float scale = 0.0173f;
  for (std::size_t count : {0, 1, 7, 8, 9, 255, 256}) {
    std::vector<std::int8_t> q(count);
    for (std::size_t i = 0; i < count; ++i) q[i] = static_cast<std::int8_t>(i * 37 % 256 - 128);
    std::vector<float> floats(count + 1, 7.0f);
    std::vector<std::uint16_t> words(count + 1, 0x4040);
    const auto size = static_cast<std::int64_t>(count);
    GetParam()->dequantize_s8(q.data(), size, scale, floats.data(), TrainType::f32);
    GetParam()->dequantize_s8(q.data(), size, scale, words.data(), TrainType::bf16);
    for (std::size_t i = 0; i < count; ++i) {
      const float exact = static_cast<float>(q[i]) * scale;
      ASSERT_EQ(floats[i], exact) << i;
      // bfloat16 has 8 significant bits: half a step is 2^-9 of the value.
      ASSERT_LE(std::fabs(bf16_at(words, i) - exact), std::fabs(exact) * 0x1p-8f) << i;
    }
    EXPECT_EQ(floats[count], 7.0f);
    EXPECT_EQ(words[count], 0x4040);
  }
}

TEST_P(Convert, FloatsAreRoundedToTheNearestBf16TiesToEven) {
  const std::vector<float> x = {1.0f,          1.00390625f, 1.01171875f, 1.00390637f, -1.00390625f,
                                3.3895314e38f, 1e-40f,      -0.0f,       0.1f};
  const std::vector<float> expected = {1.0f,          1.0f,      1.015625f, 1.0078125f,    -1.0f,
                                       3.3895314e38f, 0x1p-133f, -0.0f,     0.10009765625f};
  std::vector<std::uint16_t> words(x.size());
  GetParam()->round_to_bf16(x.data(), static_cast<std::int64_t>(x.size()), words.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(bf16_at(words, i), expected[i]) << i;
  }
  EXPECT_TRUE(std::signbit(bf16_at(words, 7)));
}

struct Coded {
  std::vector<std::int8_t> q;
  float scale = 0;
  std::int32_t sum = 0;
};

Coded quantize(const KernelTable& table, const std::vector<float>& x, std::uint32_t seed) {
  Coded coded;
  const auto k = static_cast<std::int64_t>(x.size()), stride = act_stride(k);
  coded.q.assign(static_cast<std::size_t>(stride), 77);
  table.quantize_stochastic(x.data(), k, seed, coded.q.data(), stride, &coded.scale, &coded.sum);
  return coded;
}

TEST_P(Convert, GradientCodesAreThoseOfTheScalarTable) {
  for (std::int64_t k : {1, 15, 64, 129, 576}) {
    std::mt19937 rng(static_cast<unsigned>(k));
    std::normal_distribution<float> normal(0.0f, 1e-6f);
    std::vector<float> x(static_cast<std::size_t>(k));
    for (float& v : x) v = normal(rng);
    const Coded found = quantize(*GetParam(), x, 5), expected = quantize(*find("scalar"), x, 5);
    EXPECT_EQ(found.q, expected.q);
    EXPECT_EQ(found.scale, expected.scale);
    EXPECT_EQ(found.sum, expected.sum);
  }
}

TEST_P(Convert, GradientCodesAreOneOfTheTwoNeighboursAndRightInTheMean) {
  const std::vector<float> x = {127.0f, -127.0f, 0.0f, 0.25f, -0.25f, 3.75f, 100.5f, 1e-3f};
  constexpr int kDraws = 20000;
  std::vector<double> total(x.size());
  for (int seed = 0; seed < kDraws; ++seed) {
    const Coded coded = quantize(*GetParam(), x, static_cast<std::uint32_t>(seed));
    ASSERT_EQ(coded.scale, 1.0f);
    std::int32_t sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      ASSERT_LT(std::fabs(static_cast<float>(coded.q[i]) - x[i]), 1.0f);
      total[i] += coded.q[i];
      sum += coded.q[i];
    }
    ASSERT_EQ(coded.sum, sum);
    for (std::size_t i = x.size(); i < coded.q.size(); ++i) ASSERT_EQ(coded.q[i], 0);
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    // Five standard deviations of a mean of Bernoulli draws, at most 0.5 / sqrt(draws) each.
    EXPECT_NEAR(total[i] / kDraws, x[i], 2.5 / std::sqrt(kDraws)) << i;
  }
}

TEST_P(Convert, GradientRowsOfZerosAndOfNaN) {
  const Coded zeros = quantize(*GetParam(), {0.0f, -0.0f, 0.0f}, 1);
  EXPECT_EQ(zeros.q, std::vector<std::int8_t>(64, 0));
  const float inf = std::numeric_limits<float>::infinity();
  for (float bad : {inf, -inf, std::nanf("")}) {
    const Coded coded = quantize(*GetParam(), {1.0f, bad}, 1);
    EXPECT_TRUE(std::isnan(coded.scale));
    EXPECT_EQ(coded.q, std::vector<std::int8_t>(64, 0));
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Convert, testing::ValuesIn(tables()),
                         [](const auto& info) { return table_name(info.param); });

TEST(Transpose, BlocksOfT2) {
  const std::int64_t n = 35, k = 50;
  std::vector<std::int8_t> codes(static_cast<std::size_t>(n * k));
  std::vector<std::int8_t> turned(codes.size());
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t c = 0; c < k; ++c) {
      const auto code = static_cast<std::int8_t>((r * 7 + c * 5) % 3 - 1);
      codes[static_cast<std::size_t>(r * k + c)] = code;
      turned[static_cast<std::size_t>(c * n + r)] = code;
    }
  }
  std::vector<std::uint8_t> packed(static_cast<std::size_t>(t2::size_bytes(n, k)));
  std::vector<std::uint8_t> expected(packed.size()), found(packed.size());
  t2::pack(codes.data(), n, k, packed.data());
  t2::pack(turned.data(), k, n, expected.data());
  for (std::int64_t i = 0; i < t2::panels(n); ++i) {
    for (std::int64_t j = 0; j < t2::blocks(k); ++j) {
      t2::transpose_block(packed.data() + (i * t2::blocks(k) + j) * t2::kBlockBytes,
                          found.data() + (j * t2::panels(n) + i) * t2::kBlockBytes);
    }
  }
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace wf::test
