// The float kernels of every instruction set against float64, at odd sizes, with poisoned outputs.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "coded_rows.h"
#include "dispatch.h"
#include "kernels.h"
#include "layout/half.h"
#include "layout/kv.h"
#include "matrix.h"

namespace wf::engine {
namespace {

std::vector<const KernelTable*> tables() {
  const char* names[8];
  std::vector<const KernelTable*> found;
  for (int i = 0; i < available(names, 8); ++i) found.push_back(find(names[i]));
  return found;
}

std::vector<float> random_floats(size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

class FloatKernels : public testing::TestWithParam<const KernelTable*> {
 protected:
  const KernelTable& kernels() const { return *GetParam(); }
};

INSTANTIATE_TEST_SUITE_P(Isas, FloatKernels, testing::ValuesIn(tables()),
                         [](const auto& info) { return std::string(info.param->isa); });

Matrix random_matrix(int64_t rows, int64_t columns, DenseType type) {
  Matrix matrix = Matrix::dense(rows, columns, type);
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  for (int64_t r = 0; r < rows; ++r) {
    uint8_t* row = matrix.row(r);
    if (test::is_coded(type)) {
      test::fill_coded_row(type, columns, 0.01f + 0.001f * static_cast<float>(r), generator, row);
      continue;
    }
    for (int64_t i = 0; i < columns; ++i) {
      const float value = normal(generator);
      if (type == DenseType::f32) std::memcpy(row + 4 * i, &value, 4);
      if (type == DenseType::f16) half::store_u16(row + 2 * i, half::f32_to_f16(value));
      if (type == DenseType::bf16) half::store_u16(row + 2 * i, half::f32_to_bf16(value));
    }
  }
  return matrix;
}

void check_dense(const KernelTable& kernels, DenseType type, int64_t n, int64_t k, int64_t rows) {
  const Matrix matrix = random_matrix(n, k, type);
  const std::vector<float> x = random_floats(static_cast<size_t>(rows * k), 1);
  std::vector<float> y(static_cast<size_t>(rows * n), NAN);
  kernels.gemm_f32_dense(x.data(), k, rows, matrix.data(), type, k, 0, n, y.data(), n);
  std::vector<float> w(static_cast<size_t>(k));
  for (int64_t j = 0; j < n; ++j) {
    matrix.read_row(j, w.data());
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0;
      double magnitude = 0;
      for (int64_t i = 0; i < k; ++i) {
        const double product =
            double{x[static_cast<size_t>(r * k + i)]} * w[static_cast<size_t>(i)];
        sum += product;
        magnitude += std::fabs(product);
      }
      ASSERT_NEAR(y[static_cast<size_t>(r * n + j)], sum, 2e-6 * magnitude + 1e-30)
          << "n " << n << " k " << k << " row " << r << " column " << j;
    }
  }
}

TEST_P(FloatKernels, DenseMatchesFloat64) {
  for (const DenseType type : {DenseType::f32, DenseType::f16, DenseType::bf16}) {
    for (const int64_t k : {1, 7, 8, 9, 31, 172, 576}) {
      for (const int64_t n : {1, 2, 7, 8, 9, 33}) {
        for (const int64_t rows : {1, 3, 4, 5, 9}) check_dense(kernels(), type, n, k, rows);
      }
    }
  }
  for (const int64_t k : {32, 64, 576}) {
    for (const int64_t n : {1, 2, 8, 33}) {
      for (const int64_t rows : {1, 3, 4, 5}) check_dense(kernels(), DenseType::q8_0, n, k, rows);
    }
  }
  for (const int64_t k : {256, 768}) {
    for (const int64_t n : {1, 2, 8, 33}) {
      for (const int64_t rows : {1, 3, 4, 5}) check_dense(kernels(), DenseType::q6_k, n, k, rows);
    }
  }
}

TEST_P(FloatKernels, DenseBitsDependNeitherOnRowsNorOnRanges) {
  constexpr int64_t kN = 37;
  constexpr int64_t kRows = 9;
  for (const DenseType type :
       {DenseType::f32, DenseType::f16, DenseType::bf16, DenseType::q8_0, DenseType::q6_k}) {
    for (const int64_t k : {64, 160, 256}) {
      if (type == DenseType::q6_k && k % 256 != 0) continue;
      const Matrix matrix = random_matrix(kN, k, type);
      const std::vector<float> x = random_floats(static_cast<size_t>(kRows * k), 2);
      std::vector<float> whole(kRows * kN, NAN);
      kernels().gemm_f32_dense(x.data(), k, kRows, matrix.data(), type, k, 0, kN, whole.data(), kN);
      std::vector<float> pieces(kRows * kN, NAN);
      for (int64_t r = 0; r < kRows; ++r) {
        for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 5}, {5, 21}, {21, kN}}) {
          kernels().gemm_f32_dense(x.data() + r * k, k, 1, matrix.data(), type, k, begin, end,
                                   pieces.data() + r * kN, kN);
        }
      }
      EXPECT_EQ(whole, pieces);
    }
  }
}

TEST_P(FloatKernels, RmsNormMatchesFloat64) {
  for (const int64_t k : {1, 7, 31, 32, 33, 576}) {
    const std::vector<float> x = random_floats(static_cast<size_t>(k), 3);
    const std::vector<float> gain = random_floats(static_cast<size_t>(k), 4);
    double squares = 0;
    for (const float v : x) squares += double{v} * v;
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(k) + 1e-5);
    for (const bool has_gain : {false, true}) {
      std::vector<float> y(x.size(), NAN);
      kernels().rms_norm(x.data(), has_gain ? gain.data() : nullptr, k, 1e-5f, y.data());
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = x[i] * inverse * (has_gain ? gain[i] : 1.0f);
        ASSERT_NEAR(y[i], expected, 1e-6 * std::fabs(expected) + 1e-12);
      }
    }
  }
}

TEST_P(FloatKernels, FusedNormHasTheBitsOfBothSteps) {
  for (const int64_t k : {1, 7, 33, 576, 2560}) {
    std::vector<float> x = random_floats(static_cast<size_t>(k), 3);
    const std::vector<float> gain = random_floats(static_cast<size_t>(k), 4);
    for (const bool is_poisoned : {false, true}) {
      if (is_poisoned) x[static_cast<size_t>(k / 2)] = NAN;
      const int64_t stride = act_stride(k);
      std::vector<float> y(x.size(), 7), expected_y(x.size(), 8);
      std::vector<int8_t> q(static_cast<size_t>(stride), 7), expected_q(q.size(), 8);
      float scale = 0, expected_scale = 1;
      int32_t sum = 0, expected_sum = 1;
      kernels().rms_norm(x.data(), gain.data(), k, 1e-5f, expected_y.data());
      kernels().quantize_act_int8(expected_y.data(), k, 1, k, expected_q.data(), stride,
                                  &expected_scale, &expected_sum);
      kernels().rms_norm_quantize(x.data(), gain.data(), k, 1e-5f, y.data(), q.data(), stride,
                                  &scale, &sum);
      EXPECT_EQ(std::memcmp(y.data(), expected_y.data(), y.size() * sizeof(float)), 0);
      EXPECT_EQ(q, expected_q);
      EXPECT_EQ(std::memcmp(&scale, &expected_scale, sizeof scale), 0);
      EXPECT_EQ(sum, expected_sum);
    }
  }
}

TEST_P(FloatKernels, NormGradientsMatchFloat64AndAddUp) {
  for (const int64_t k : {1, 7, 15, 16, 33, 576}) {
    const auto size = static_cast<size_t>(k);
    const std::vector<float> x = random_floats(size, 3), gain = random_floats(size, 4);
    const std::vector<float> grad = random_floats(size, 5);
    double squares = 0, dot = 0;
    for (size_t i = 0; i < size; ++i) {
      squares += double{x[i]} * x[i];
      dot += double{gain[i]} * grad[i] * x[i];
    }
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(k) + 1e-5);
    const double mean = dot / static_cast<double>(k) * inverse * inverse;
    std::vector<float> x_grad(size, NAN), gain_grad(size, 2.0f);
    kernels().rms_norm_grad(x.data(), gain.data(), grad.data(), k, 1e-5f, x_grad.data(),
                            gain_grad.data());
    for (size_t i = 0; i < size; ++i) {
      const double expected = (double{gain[i]} * grad[i] - x[i] * mean) * inverse;
      ASSERT_NEAR(x_grad[i], expected, 2e-5 * inverse) << i;
      ASSERT_NEAR(gain_grad[i], 2.0 + grad[i] * x[i] * inverse, 2e-6) << i;
    }
  }
}

TEST_P(FloatKernels, ZeroRowsStayZero) {
  const std::vector<float> zeros(40, 0.0f);
  std::vector<float> y(40, NAN);
  kernels().rms_norm(zeros.data(), nullptr, 40, 1e-5f, y.data());
  EXPECT_EQ(y, zeros);
}

TEST_P(FloatKernels, GatedActivationsMatchFloat64) {
  std::vector<float> gate = random_floats(43, 5);
  gate[0] = -200.0f;
  gate[1] = 200.0f;
  gate[2] = 0.0f;
  const std::vector<float> up = random_floats(43, 6);
  for (const Gate kind : {Gate::silu, Gate::relu2}) {
    std::vector<float> y(43, NAN);
    kernels().gated_act(gate.data(), up.data(), 43, kind, y.data());
    for (size_t i = 0; i < y.size(); ++i) {
      const double x = gate[i];
      const double act = kind == Gate::silu ? x / (1 + std::exp(-x)) : (x > 0 ? x * x : 0);
      ASSERT_NEAR(y[i], act * up[i], 1e-6 * std::fabs(act * up[i]) + 1e-30) << x;
    }
  }
}

TEST_P(FloatKernels, LogSumExpMatchesFloat64) {
  for (const int64_t n : {1, 5, 8, 9, 1000}) {
    std::vector<float> x = random_floats(static_cast<size_t>(n), 8);
    for (float& v : x) v = 20 * v + 300;
    double most = x[0];
    for (const float v : x) most = std::max<double>(most, v);
    double sum = 0;
    for (const float v : x) sum += std::exp(v - most);
    EXPECT_NEAR(kernels().log_sum_exp(x.data(), n), most + std::log(sum), 1e-4);
  }
}

// A step knows by this sum that the model has gone wrong.
TEST_P(FloatKernels, LogSumExpLosesNoNanOrInfinity) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const size_t n : {1, 5, 8, 19}) {
    for (size_t i = 0; i < n; ++i) {
      std::vector<float> x(n, 1.0f);
      x[i] = -infinity;  // a token that cannot be
      EXPECT_EQ(std::isfinite(kernels().log_sum_exp(x.data(), n)), n > 1) << i << " of " << n;
      for (const float bad : {std::nanf(""), infinity}) {
        x[i] = bad;
        EXPECT_FALSE(std::isfinite(kernels().log_sum_exp(x.data(), n))) << i << " of " << n;
      }
    }
  }
}

// Random keys and values of one head, stored, and what a reader of the cache must see of them.
struct Cache {
  Cache(const KernelTable& kernels, KvType type, int64_t positions, int64_t d)
      : block(kv::head_bytes(type, d)) {
    for (int64_t t = 0; t < positions; ++t) {
      if (t % kKvPage == 0) pages.emplace_back(static_cast<size_t>(2 * block), uint8_t{0xee});
      const std::vector<float> key = random_floats(static_cast<size_t>(d), 10 + 2u * unsigned(t));
      const std::vector<float> value = random_floats(static_cast<size_t>(d), 11 + 2u * unsigned(t));
      kernels.store_kv(key.data(), value.data(), type, d, t % kKvPage, pages.back().data(),
                       pages.back().data() + block);
      keys.push_back(stored(key, type));
      values.push_back(stored(value, type));
    }
    for (const auto& page : pages) pointers.push_back(page.data());
  }

  static std::vector<double> stored(const std::vector<float>& x, KvType type) {
    std::vector<double> out(x.begin(), x.end());
    float absmax = 0;
    for (const float v : x) absmax = std::max(absmax, std::fabs(v));
    for (double& v : out) {
      const auto value = static_cast<float>(v);
      if (type == KvType::f16) v = half::f16_to_f32(half::f32_to_f16(value));
      if (type == KvType::bf16) v = half::bf16_to_f32(half::f32_to_bf16(value));
      if (type == KvType::int8) {
        v = std::nearbyint(value * (127.0f / absmax)) * double{absmax / 127.0f};
      }
    }
    return out;
  }

  int64_t block;
  std::vector<std::vector<uint8_t>> pages;
  std::vector<const uint8_t*> pointers;
  std::vector<std::vector<double>> keys, values;
};

std::vector<double> plain_attention(const Cache& cache, const float* q, int64_t d, float scale) {
  std::vector<double> weights;
  double most = -1e300;
  for (const std::vector<double>& key : cache.keys) {
    double score = 0;
    for (int64_t i = 0; i < d; ++i) score += q[i] * key[static_cast<size_t>(i)];
    weights.push_back(score * scale);
    most = std::max(most, weights.back());
  }
  double total = 0;
  for (double& weight : weights) total += weight = std::exp(weight - most);
  std::vector<double> out(static_cast<size_t>(d));
  for (size_t t = 0; t < weights.size(); ++t) {
    for (size_t i = 0; i < out.size(); ++i) out[i] += weights[t] / total * cache.values[t][i];
  }
  return out;
}

TEST_P(FloatKernels, AttentionMatchesFloat64) {
  constexpr int64_t kHeads = 5;
  for (const KvType type : {KvType::f32, KvType::f16, KvType::bf16, KvType::int8}) {
    for (const int64_t d : {2, 8, 20, 64, 80, 128}) {
      const float scale = 1.0f / std::sqrt(static_cast<float>(d));
      const std::vector<float> q = random_floats(static_cast<size_t>(kHeads * d), 9);
      for (const int64_t positions : {1, 2, 31, 32, 33, 100}) {
        const Cache cache(kernels(), type, positions, d);
        std::vector<float> out(q.size(), NAN);
        SoftmaxPart parts[kHeads];
        kernels().attention(q.data(), kHeads, cache.pointers.data(), type, 0, cache.block, 0,
                            positions, d, scale, out.data(), parts);
        for (int64_t h = 0; h < kHeads; ++h) {
          const std::vector<double> expected = plain_attention(cache, q.data() + h * d, d, scale);
          std::vector<float> alone(static_cast<size_t>(d), NAN);
          SoftmaxPart part;
          kernels().attention(q.data() + h * d, 1, cache.pointers.data(), type, 0, cache.block, 0,
                              positions, d, scale, alone.data(), &part);
          ASSERT_EQ(part.most, parts[h].most);
          ASSERT_EQ(part.total, parts[h].total);
          for (int64_t i = 0; i < d; ++i) {
            const float sum = out[static_cast<size_t>(h * d + i)];
            ASSERT_NEAR(sum / part.total, expected[static_cast<size_t>(i)], 5e-6)
                << "head size " << d << ", positions " << positions;
            ASSERT_EQ(sum, alone[static_cast<size_t>(i)]);
          }
        }
      }
    }
  }
}

TEST_P(FloatKernels, StoredNumbersThatAreNotFiniteReachTheOutput) {
  for (const KvType type : {KvType::f32, KvType::f16, KvType::bf16, KvType::int8}) {
    std::vector<uint8_t> page(static_cast<size_t>(2 * kv::head_bytes(type, 8)));
    std::vector<float> key(8, 1.0f);
    const std::vector<float> value(8, 1.0f);
    key[3] = type == KvType::f16 ? 7e4f : NAN;  // too much for float16
    kernels().store_kv(key.data(), value.data(), type, 8, 0, page.data(),
                       page.data() + kv::head_bytes(type, 8));
    const uint8_t* pages[] = {page.data()};
    std::vector<float> out(8, 0.0f);
    SoftmaxPart part;
    kernels().attention(value.data(), 1, pages, type, 0, kv::head_bytes(type, 8), 0, 1, 8, 1.0f,
                        out.data(), &part);
    for (const float v : out) EXPECT_TRUE(std::isnan(v / part.total));
  }
}

}  // namespace
}  // namespace wf::engine
