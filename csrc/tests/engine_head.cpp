// Screened logits against all logits: the same bits, and none missing that could be wanted.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "coded_rows.h"
#include "dispatch.h"
#include "head.h"
#include "layout/half.h"

namespace wf::engine {
namespace {

constexpr int64_t kVocab = 1003;

std::vector<const KernelTable*> tables() {
  const char* names[8];
  std::vector<const KernelTable*> found;
  for (int i = 0; i < available(names, 8); ++i) found.push_back(find(names[i]));
  return found;
}

// Gaussian rows, but: 10..19 are one row, 20 is zero, 30 has an outlier, 40 is tiny.
Matrix odd_matrix(DenseType type, int64_t hidden) {
  Matrix matrix = Matrix::dense(kVocab, hidden, type);
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  for (int64_t r = 0; r < kVocab; ++r) {
    uint8_t* row = matrix.row(r);
    if (r > 10 && r < 20) {
      std::memcpy(row, matrix.row(10), static_cast<size_t>(matrix.row_bytes()));
      continue;
    }
    const float size = r == 20 ? 0.0f : r == 40 ? 1e-4f : 0.1f;
    if (type == DenseType::q8_0) {
      for (int64_t b = 0; b < hidden / 32; ++b) {
        half::store_u16(row + 34 * b, half::f32_to_f16(size / 50));
        for (int i = 0; i < 32; ++i) {
          row[34 * b + 2 + i] = static_cast<uint8_t>(static_cast<int8_t>(40 * normal(rng)));
        }
      }
      continue;
    }
    if (type == DenseType::q6_k) {
      test::fill_coded_row(type, hidden, size / 50, rng, row);
      continue;
    }
    for (int64_t i = 0; i < hidden; ++i) {
      const float value = r == 30 && i == 3 ? 50.0f : size * normal(rng);
      if (type == DenseType::f32) std::memcpy(row + 4 * i, &value, 4);
      if (type == DenseType::f16) half::store_u16(row + 2 * i, half::f32_to_f16(value));
      if (type == DenseType::bf16) half::store_u16(row + 2 * i, half::f32_to_bf16(value));
    }
  }
  return matrix;
}

// Runs one pass over `inputs`, a need for each.
void run(Head& head, ThreadPool& pool, int64_t hidden, const std::vector<float>& inputs,
         const std::vector<HeadNeed>& needs) {
  for (size_t r = 0; r < needs.size(); ++r) {
    const auto row = static_cast<int64_t>(r);
    std::copy_n(inputs.data() + row * hidden, hidden, head.input(row));
    head.prepare(row, needs[r]);
  }
  pool.run([&](int thread) { head.compute(static_cast<int64_t>(needs.size()), thread); });
}

// What `need` asks for is there, with the bits of `all`.
void check_likely(const std::vector<TokenLogit>& likely, const std::vector<float>& all,
                  const HeadNeed& need) {
  std::vector<bool> has(all.size());
  int64_t last = -1;
  for (const auto& [token, logit] : likely) {
    EXPECT_GT(token, last) << "not ascending";
    last = token;
    has[static_cast<size_t>(token)] = true;
    EXPECT_EQ(std::memcmp(&logit, &all[static_cast<size_t>(token)], sizeof logit), 0);
  }
  std::vector<float> counted;
  for (size_t j = 0; j < all.size(); ++j) {
    const bool is_always =
        std::binary_search(need.always.begin(), need.always.end(), static_cast<int32_t>(j));
    EXPECT_TRUE(has[j] || !is_always) << "token " << j;
    if (!is_always) counted.push_back(all[j]);
  }
  std::sort(counted.rbegin(), counted.rend());
  const float least =
      counted[std::min(counted.size(), static_cast<size_t>(need.top)) - 1] - need.within;
  for (size_t j = 0; j < all.size(); ++j) {
    EXPECT_TRUE(has[j] || all[j] < least) << "token " << j << " of logit " << all[j];
  }
}

class HeadScreen : public testing::TestWithParam<std::tuple<const KernelTable*, DenseType>> {};

TEST_P(HeadScreen, FindsWhatIsAskedFor) {
  const auto& [table, type] = GetParam();
  const std::vector<int32_t> always = {0, 5, 12, 999, 1002};
  const std::vector<HeadNeed> needs = {
      {.all = false, .top = 1},
      {.all = false, .top = 40},
      {.all = true},
      {.all = false, .top = 1, .within = 3.0f},
      {.all = false, .top = 2, .always = always},
      {.all = false, .top = 62},
  };
  for (const int64_t hidden : {32, 96, 512, 576}) {
    if (type == DenseType::q6_k && hidden % 256 != 0) continue;
    const Matrix matrix = odd_matrix(type, hidden);
    for (const int threads : {1, 3}) {
      ThreadPool pool(threads);
      Head stored(matrix, *table, pool, false);
      Head screened(matrix, *table, pool, true);
      ASSERT_FALSE(stored.is_screened());
      ASSERT_TRUE(screened.is_screened());
      std::mt19937 rng(static_cast<unsigned>(hidden));
      std::normal_distribution<float> normal;
      for (int pass = 0; pass < 6; ++pass) {
        std::vector<float> inputs(needs.size() * static_cast<size_t>(hidden));
        for (float& x : inputs) x = normal(rng);
        if (pass == 1) inputs[4] = 300;                             // one large activation
        if (pass == 2) std::fill(inputs.begin(), inputs.end(), 0);  // every logit is a tie
        if (pass == 3) matrix.read_row(10, inputs.data());          // ten best tokens
        run(stored, pool, hidden, inputs, std::vector<HeadNeed>(needs.size()));
        run(screened, pool, hidden, inputs, needs);
        for (size_t r = 0; r < needs.size(); ++r) {
          const auto row = static_cast<int64_t>(r);
          const std::vector<float> all(stored.logits(row), stored.logits(row) + kVocab);
          ASSERT_EQ(screened.has_all(row), needs[r].all);
          if (needs[r].all) {
            EXPECT_EQ(std::vector<float>(screened.logits(row), screened.logits(row) + kVocab), all);
          } else {
            check_likely(screened.likely(row), all, needs[r]);
          }
        }
      }
    }
  }
}

TEST_P(HeadScreen, RulesMostRowsOut) {
  const auto& [table, type] = GetParam();
  constexpr int64_t kHidden = 512;
  const Matrix matrix = odd_matrix(type, kHidden);
  ThreadPool pool(1);
  Head head(matrix, *table, pool, true);
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> inputs(kHidden);
  for (int pass = 0; pass < 20; ++pass) {
    for (float& x : inputs) x = normal(rng);
    run(head, pool, kHidden, inputs, {{.all = false, .top = 1}});
  }
  EXPECT_EQ(head.counts().rows, 20);
  EXPECT_LT(head.counts().rescored, 20 * kVocab / 20);
}

std::string case_name(const testing::TestParamInfo<HeadScreen::ParamType>& info) {
  const char* const names[] = {"f32", "f16", "bf16", "q8_0", "q6_k"};
  return std::string(std::get<0>(info.param)->isa) + "_" +
         names[static_cast<int>(std::get<1>(info.param))];
}

INSTANTIATE_TEST_SUITE_P(Isas, HeadScreen,
                         testing::Combine(testing::ValuesIn(tables()),
                                          testing::Values(DenseType::f32, DenseType::f16,
                                                          DenseType::bf16, DenseType::q8_0,
                                                          DenseType::q6_k)),
                         case_name);

TEST(Head, ComputesAllLogitsOfInputsThatAreNotFinite) {
  const Matrix matrix = odd_matrix(DenseType::f16, 64);
  ThreadPool pool(2);
  Head head(matrix, active(), pool, true);
  std::vector<float> inputs(64, 1.0f);
  inputs[7] = std::nanf("");
  run(head, pool, 64, inputs, {{.all = false, .top = 1}});
  ASSERT_TRUE(head.has_all(0));
  EXPECT_TRUE(std::isnan(head.logits(0)[0]));
}

TEST(Head, ComputesRowsThatAreNotFinite) {
  Matrix matrix = odd_matrix(DenseType::f16, 64);
  half::store_u16(matrix.row(77), 0x7e00);  // NaN
  ThreadPool pool(2);
  Head head(matrix, active(), pool, true);
  run(head, pool, 64, std::vector<float>(64, 1.0f), {{.all = false, .top = 1}});
  const std::vector<TokenLogit> likely = head.likely(0);
  EXPECT_TRUE(std::any_of(likely.begin(), likely.end(), [](const TokenLogit& entry) {
    return entry.token == 77 && std::isnan(entry.logit);
  }));
}

}  // namespace
}  // namespace wf::engine
