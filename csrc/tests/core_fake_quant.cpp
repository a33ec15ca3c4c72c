// Quantize-dequantize on every table against the formulas, in both types and both ways of writing.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core_problem.h"

namespace wf::test {
namespace {

std::uint32_t bits_of(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}

float from_bits(std::uint32_t bits) {
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// The nearest bfloat16 by comparing the distances to both neighbours, ties to even.
std::uint16_t nearest_bf16(float v) {
  if (std::isnan(v)) return static_cast<std::uint16_t>(bits_of(v) >> 16 | 0x40u);
  const std::uint32_t low = bits_of(v) & 0xffff0000u, high = low + 0x10000u;
  const double down = std::fabs(static_cast<double>(v) - from_bits(low));
  const double up = std::fabs(static_cast<double>(from_bits(high)) - v);
  const bool takes_high = up < down || (up == down && (low >> 16 & 1u));
  return static_cast<std::uint16_t>((takes_high ? high : low) >> 16);
}

// Values of a type as its bytes, and back as floats.
struct Typed {
  TrainType type;
  std::vector<std::uint8_t> bytes;

  Typed(TrainType t, const std::vector<float>& values) : type(t) {
    for (const float v : values) {
      const std::uint32_t word = type == TrainType::f32 ? bits_of(v) : nearest_bf16(v);
      const auto* from = reinterpret_cast<const std::uint8_t*>(&word);
      bytes.insert(bytes.end(), from, from + (type == TrainType::f32 ? 4 : 2));
    }
  }

  std::vector<float> floats() const {
    std::vector<float> values;
    for (std::size_t i = 0; i < bytes.size(); i += type == TrainType::f32 ? 4 : 2) {
      std::uint32_t word = 0;
      std::memcpy(&word, bytes.data() + i, type == TrainType::f32 ? 4 : 2);
      values.push_back(from_bits(type == TrainType::f32 ? word : word << 16));
    }
    return values;
  }
};

// Output between guard bytes, aligned to its elements and no further.
struct Output {
  static constexpr std::size_t kGuard = 68;
  std::vector<std::uint8_t> bytes;

  explicit Output(std::size_t size) : bytes(size + 2 * kGuard, 0xee) {}
  void* data() { return bytes.data() + kGuard; }
  std::vector<std::uint8_t> result() const {
    for (std::size_t i = 0; i < kGuard; ++i) {
      EXPECT_EQ(bytes[i], 0xee);
      EXPECT_EQ(bytes[bytes.size() - 1 - i], 0xee);
    }
    return {bytes.begin() + kGuard, bytes.end() - kGuard};
  }
};

std::vector<float> normal_values(std::int64_t count, float size) {
  std::mt19937 rng(11);
  std::normal_distribution<float> normal(0.0f, size);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = normal(rng);
  return values;
}

// Codes are integers, so a code of zero has no sign.
float blend(float v, float q, float lambda) { return lambda == 1.0f ? q : v + lambda * (q - v); }

class FakeQuant : public testing::TestWithParam<std::tuple<const KernelTable*, TrainType, bool>> {
 protected:
  static const KernelTable& table() { return *std::get<0>(GetParam()); }
  static TrainType type() { return std::get<1>(GetParam()); }
  static bool around_cache() { return std::get<2>(GetParam()); }
};

TEST_P(FakeQuant, WeightsEqualTheFormula) {
  const float scale = 0.0159f;
  for (float lambda : {0.0f, 0.3f, 1.0f}) {
    for (std::int64_t count : {1, 7, 33, 1023, 1024, 1025, 5000}) {
      const Typed w(type(), normal_values(count, 0.02f));
      std::vector<float> expected = w.floats();
      for (float& v : expected) {
        const float code =
            std::nearbyintf(std::fmin(std::fmax(v * (1.0f / scale), -1.0f), 1.0f)) + 0.0f;
        v = blend(v, code * scale, lambda);
      }
      Output out(w.bytes.size());
      table().fake_quant_ternary(w.bytes.data(), type(), count, scale, lambda, around_cache(),
                                 out.data());
      EXPECT_EQ(out.result(), Typed(type(), expected).bytes) << count << " at " << lambda;
    }
  }
}

TEST_P(FakeQuant, RowsEqualTheFormula) {
  for (float lambda : {0.0f, 0.3f, 1.0f}) {
    for (std::int64_t k : {1, 3, 31, 576, 1025, 2560}) {
      std::vector<float> values = normal_values(3 * k, 1.0f);
      std::fill_n(values.begin() + k, k, 0.0f);
      const Typed x(type(), values);
      std::vector<float> expected = x.floats();
      for (std::int64_t r = 0; r < 3; ++r) {
        float absmax = 1e-5f;
        for (std::int64_t c = 0; c < k; ++c) {
          absmax = std::fmax(absmax, std::fabs(expected[static_cast<std::size_t>(r * k + c)]));
        }
        for (std::int64_t c = 0; c < k; ++c) {
          float& v = expected[static_cast<std::size_t>(r * k + c)];
          const float code = std::nearbyintf(v * (127.0f / absmax)) + 0.0f;
          v = blend(v, code * (absmax / 127.0f), lambda);
        }
      }
      Output out(x.bytes.size());
      table().fake_quant_act(x.bytes.data(), type(), 3, k, lambda, around_cache(), out.data());
      EXPECT_EQ(out.result(), Typed(type(), expected).bytes) << k << " at " << lambda;
    }
  }
}

TEST_P(FakeQuant, NonFiniteRowPoisonsItselfOnly) {
  const float inf = std::numeric_limits<float>::infinity();
  for (float bad : {inf, -inf, std::nanf("")}) {
    const Typed x(type(), {1, 2, 4, 1, bad, 4, 1, 2, 4});
    Output out(x.bytes.size());
    table().fake_quant_act(x.bytes.data(), type(), 3, 3, 1.0f, around_cache(), out.data());
    Typed y(type(), {});
    y.bytes = out.result();
    const std::vector<float> values = y.floats();
    for (std::size_t i = 0; i < 9; ++i) EXPECT_EQ(std::isnan(values[i]), i / 3 == 1) << i;
  }
}

TEST_P(FakeQuant, SumsOfBothTypesHaveOneOrder) {
  const Typed w(type(), normal_values(1001, 1.0f));
  double exact = 0;
  for (const float v : w.floats()) exact += std::fabs(static_cast<double>(v));
  const double sum = table().sum_abs(w.bytes.data(), type(), 1001);
  EXPECT_EQ(sum, find("scalar")->sum_abs(w.bytes.data(), type(), 1001));
  EXPECT_NEAR(sum, exact, 1e-12 * exact);
}

std::string case_name(const testing::TestParamInfo<FakeQuant::ParamType>& info) {
  const auto [table, type, around_cache] = info.param;
  return table_name(table) + (type == TrainType::f32 ? "_f32" : "_bf16") +
         (around_cache ? "_around_cache" : "");
}

INSTANTIATE_TEST_SUITE_P(Isa, FakeQuant,
                         testing::Combine(testing::ValuesIn(tables()),
                                          testing::Values(TrainType::f32, TrainType::bf16),
                                          testing::Bool()),
                         case_name);

}  // namespace
}  // namespace wf::test
