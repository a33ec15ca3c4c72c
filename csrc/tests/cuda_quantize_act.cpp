// The CUDA int8 quantization, run on the host, against the scalar CPU kernel: bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "dispatch.h"
#include "launchers.h"
#include "quantize_act.cuh"

namespace wf::test {
namespace {

using cuda::FloatType;

struct Quantized {
  std::vector<std::int8_t> q;
  std::vector<std::uint32_t> scale_bits;  // bits, so that NaN equals itself

  bool operator==(const Quantized&) const = default;
};

// Outputs start as values that no kernel writes.
template <class Run>
Quantized run(std::int64_t rows, std::int64_t k, const Run& kernel) {
  Quantized out;
  out.q.assign(static_cast<std::size_t>(rows * k), -128);
  std::vector<float> scale(static_cast<std::size_t>(rows), -1.0f);
  kernel(out.q.data(), scale.data());
  for (const float s : scale) out.scale_bits.push_back(__builtin_bit_cast(std::uint32_t, s));
  return out;
}

Quantized on_cpu(const std::vector<float>& x, std::int64_t rows, std::int64_t k) {
  std::vector<std::int32_t> sum(static_cast<std::size_t>(rows));
  return run(rows, k, [&](std::int8_t* q, float* scale) {
    find("scalar")->quantize_act_int8(x.data(), k, rows, k, q, k, scale, sum.data());
  });
}

template <class Element>
Quantized on_gpu(const std::vector<Element>& x, FloatType type, std::int64_t rows, std::int64_t k) {
  return run(rows, k, [&](std::int8_t* q, float* scale) {
    EXPECT_EQ(cuda::quantize_act_int8(x.data(), type, rows, k, q, scale, nullptr), nullptr);
  });
}

void expect_equal(const std::vector<float>& x, std::int64_t rows, std::int64_t k) {
  EXPECT_EQ(on_gpu(x, FloatType::f32, rows, k), on_cpu(x, rows, k)) << rows << " x " << k;
}

std::vector<float> normal(std::int64_t count, float sigma = 1.0f) {
  std::mt19937 rng(7);
  std::normal_distribution<float> distribution(0.0f, sigma);
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& v : x) v = distribution(rng);
  return x;
}

class CudaQuantizeAct : public testing::TestWithParam<std::uint32_t> {
 protected:
  void SetUp() override { gpu::seed = GetParam(); }
};

TEST_P(CudaQuantizeAct, ShapesAroundWarpsAndBlocks) {
  for (const int k : {1, 2, 3, 31, 32, 33, 127, 128, 129, 576, 1023, 1024, 1025, 6912}) {
    for (const int rows : {1, 2, 5}) expect_equal(normal(rows * k), rows, k);
  }
  expect_equal(normal(301 * 7), 301, 7);
  expect_equal({}, 0, 5);
}

TEST_P(CudaQuantizeAct, BlocksTakeSeveralRows) {
  const std::int64_t rows = 11, k = 300;
  const std::vector<float> x = normal(rows * k);
  const Quantized got = run(rows, k, [&](std::int8_t* q, float* scale) {
    WF_LAUNCH(cuda::quantize_rows<float>, 3, 96, nullptr, x.data(), rows, k, q, scale);
  });
  EXPECT_EQ(gpu::launch_error(), nullptr);
  EXPECT_EQ(got, on_cpu(x, rows, k));
}

TEST_P(CudaQuantizeAct, TiesExtremesAndTinyRows) {
  // absmax 127 makes the factor exactly 1.
  expect_equal({127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, -127.0f, 126.5f, -126.5f}, 1, 10);
  const float max = std::numeric_limits<float>::max();
  const float denormal = std::numeric_limits<float>::denorm_min();
  for (const float value : {0.0f, -0.0f, 1e-5f, 9.9e-6f, 1e-30f, 1e-40f, denormal, max, -max}) {
    expect_equal(std::vector<float>(3 * 257, value), 3, 257);
    expect_equal({value, 0.0f, value / 2, -value}, 1, 4);
  }
  for (const float sigma : {1e-38f, 1e-6f, 3e4f, 1e37f})
    expect_equal(normal(4 * 500, sigma), 4, 500);
}

TEST_P(CudaQuantizeAct, ANonFiniteRowPoisonsItselfOnly) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::int64_t k = 333;
  for (const float bad : {inf, -inf, std::nanf(""), -std::nanf("")}) {
    for (const std::int64_t column : {std::int64_t{0}, std::int64_t{200}, k - 1}) {
      std::vector<float> x = normal(3 * k);
      x[static_cast<std::size_t>(k + column)] = bad;
      expect_equal(x, 3, k);
      EXPECT_EQ(on_gpu(x, FloatType::f32, 3, k).scale_bits[1], 0x7fc00000u);
    }
  }
  expect_equal({std::nanf("")}, 1, 1);
}

// Every 16-bit pattern, NaNs and subnormals among them, spread so that rows differ in scale.
TEST_P(CudaQuantizeAct, EverySixteenBitValue) {
  const std::int64_t rows = 256, k = 256;
  std::vector<std::uint16_t> bits(static_cast<std::size_t>(rows * k));
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
  std::vector<float> f16, bf16;
  for (const std::uint16_t b : bits) {
    f16.push_back(half::f16_to_f32(b));
    bf16.push_back(half::bf16_to_f32(b));
  }
  EXPECT_EQ(on_gpu(bits, FloatType::f16, rows, k), on_cpu(f16, rows, k));
  EXPECT_EQ(on_gpu(bits, FloatType::bf16, rows, k), on_cpu(bf16, rows, k));
}

INSTANTIATE_TEST_SUITE_P(Schedule, CudaQuantizeAct, testing::Range(0u, 3u));

}  // namespace
}  // namespace wf::test
