// Attention over long contexts: the same bits however rows, heads and spans are divided.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "attention.h"
#include "dispatch.h"
#include "layout/kv.h"

namespace wf::engine {
namespace {

constexpr int64_t kHeads = 6;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kHeadDim = 20;

ModelConfig config() {
  ModelConfig config;
  config.layers = 2;
  config.heads = kHeads;
  config.kv_heads = kKvHeads;
  config.head_dim = kHeadDim;
  return config;
}

// A sequence of random keys and values of layer 1, and the numbers themselves.
struct Filled {
  Filled(int64_t length, unsigned seed) : sequence(config(), KvType::f32, length) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    for (int64_t t = 0; t < length; ++t) {
      sequence.reserve(1);
      for (int64_t h = 0; h < kKvHeads; ++h) {
        for (int64_t i = 0; i < 2 * kHeadDim; ++i) both.push_back(normal(generator));
        uint8_t* page = sequence.page(t);
        const float* key = both.data() + (t * kKvHeads + h) * 2 * kHeadDim;
        active().store_kv(key, key + kHeadDim, KvType::f32, kHeadDim, t % kKvPage,
                          page + sequence.key_offset(1, h), page + sequence.value_offset(1, h));
      }
      sequence.advance(1);
    }
  }

  double key(int64_t t, int64_t h, int64_t i) const {
    return both[static_cast<size_t>((t * kKvHeads + h) * 2 * kHeadDim + i)];
  }
  double value(int64_t t, int64_t h, int64_t i) const { return key(t, h, kHeadDim + i); }

  Sequence sequence;
  std::vector<float> both;
};

std::vector<float> attend(const std::vector<TokenRow>& rows, const std::vector<float>& q,
                          int threads) {
  ThreadPool pool(threads);
  const ModelConfig sizes = config();
  Attention attention(sizes, active(), pool);
  attention.plan(rows);
  std::vector<float> out(q.size(), NAN);
  pool.run([&](int thread) { attention.run(1, q.data(), out.data(), thread); });
  return out;
}

void check(const Filled& filled, const TokenRow& row, const float* q, const float* out) {
  for (int64_t h = 0; h < kHeads; ++h) {
    const int64_t kv = h / (kHeads / kKvHeads);
    std::vector<double> scores;
    double most = -1e300;
    for (int64_t t = 0; t <= row.position; ++t) {
      double score = 0;
      for (int64_t i = 0; i < kHeadDim; ++i) score += q[h * kHeadDim + i] * filled.key(t, kv, i);
      scores.push_back(score / std::sqrt(double{kHeadDim}));
      most = std::max(most, scores.back());
    }
    double total = 0;
    std::vector<double> expected(kHeadDim);
    for (int64_t t = 0; t <= row.position; ++t) {
      const double weight = std::exp(scores[static_cast<size_t>(t)] - most);
      total += weight;
      for (int64_t i = 0; i < kHeadDim; ++i) {
        expected[static_cast<size_t>(i)] += weight * filled.value(t, kv, i);
      }
    }
    for (int64_t i = 0; i < kHeadDim; ++i) {
      ASSERT_NEAR(out[h * kHeadDim + i], expected[static_cast<size_t>(i)] / total, 5e-6)
          << "position " << row.position << ", head " << h;
    }
  }
}

TEST(Attention, OfLongContextsMatchesFloat64InAnyDivision) {
  constexpr int64_t kSpan = Attention::kSpan;
  Filled longest(3 * kSpan + 40, 1);
  Filled shorter(kSpan + 1, 2);
  const std::vector<TokenRow> rows = {
      {&longest.sequence, 3 * kSpan + 39}, {&longest.sequence, 2 * kSpan - 1},
      {&longest.sequence, 2 * kSpan},      {&shorter.sequence, kSpan},
      {&shorter.sequence, kSpan - 1},      {&shorter.sequence, 0},
  };
  std::vector<float> q(rows.size() * kHeads * kHeadDim);
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  for (float& x : q) x = 3 * normal(generator);

  const std::vector<float> whole = attend(rows, q, 1);
  constexpr size_t kWidth = kHeads * kHeadDim;
  for (size_t r = 0; r < rows.size(); ++r) {
    const Filled& filled = rows[r].sequence == &longest.sequence ? longest : shorter;
    check(filled, rows[r], q.data() + r * kWidth, whole.data() + r * kWidth);
  }
  for (const int threads : {2, 3, 5, 16}) EXPECT_EQ(attend(rows, q, threads), whole) << threads;
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::vector<float> row_q(q.begin() + r * kWidth, q.begin() + (r + 1) * kWidth);
    const std::vector<float> expected(whole.begin() + r * kWidth, whole.begin() + (r + 1) * kWidth);
    for (const int threads : {1, 4}) {
      EXPECT_EQ(attend({rows[r]}, row_q, threads), expected) << "row " << r;
    }
  }
}

}  // namespace
}  // namespace wf::engine
