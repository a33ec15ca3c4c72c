// The ternary product on every table and layout against 64-bit sums. Outputs start as a pattern no
// result has, and lie between guard words.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <thread>
#include <tuple>

#include "core_problem.h"

namespace wf::test {
namespace {

constexpr std::int32_t kPoison = 0x7fc0dead;  // as a float: a NaN
constexpr std::size_t kGuard = 32;

class TernaryGemm : public testing::TestWithParam<std::tuple<const KernelTable*, Layout>> {
 protected:
  static const KernelTable& table() { return *std::get<0>(GetParam()); }
  static Layout layout() { return std::get<1>(GetParam()); }

  // The product of rows [row, row + rows), columns [n_begin, n_end), with the rest left alone.
  std::vector<std::int32_t> integers(const Problem& p, std::int64_t row, std::int64_t rows,
                                     std::int64_t n_begin, std::int64_t n_end) {
    std::vector<std::int32_t> out(static_cast<std::size_t>(rows * p.n) + 2 * kGuard, kPoison);
    integer_product(table(), layout(), p, row, rows, n_begin, n_end, out.data() + kGuard);
    for (std::size_t i = 0; i < kGuard; ++i) {
      EXPECT_EQ(out[i], kPoison) << "wrote before the output";
      EXPECT_EQ(out[out.size() - 1 - i], kPoison) << "wrote behind the output";
    }
    return {out.begin() + kGuard, out.end() - kGuard};
  }

  void expect_exact(const Problem& p) {
    SCOPED_TRACE(testing::Message() << "M=" << p.m << " N=" << p.n << " K=" << p.k);
    EXPECT_EQ(integers(p, 0, p.m, 0, p.n), p.acc);
  }
};

TEST_P(TernaryGemm, RowCounts) {
  for (int m : {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 64, 65}) {
    expect_exact(random_problem(m, 7, 130));
    expect_exact(random_problem(m, 67, 33));
  }
}

TEST_P(TernaryGemm, Shapes) {
  for (int k : {1,   3,   15,  16,  17,  19,  20,  21,  31,  79,   80,  81,
                127, 128, 129, 239, 240, 241, 255, 256, 257, 2560, 6912}) {
    for (int n : {1, 2, 5, 63, 64, 65, 128}) {
      if (k > 2000 && n > 5 && n != 63) continue;
      expect_exact(random_problem(1, n, k));
      expect_exact(random_problem(5, n, k));
    }
  }
}

// Activations that do not fit the row block together, and columns that t1 does not rewrite at once.
TEST_P(TernaryGemm, ManyRowBlocks) {
  expect_exact(random_problem(70, 20, 6912));
  for (int k : {1279, 1280, 1281, 2560, 2561, 16384}) expect_exact(random_problem(9, 70, k));
}

TEST_P(TernaryGemm, ManyRowsEqualSingleRows) {
  for (int k : {3, 129, 2560}) {
    const Problem p = random_problem(33, 63, k);
    const auto together = integers(p, 0, p.m, 0, p.n);
    for (std::int64_t r = 0; r < p.m; ++r) {
      const auto alone = integers(p, r, 1, 0, p.n);
      EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + r * p.n)) << r;
    }
  }
}

TEST_P(TernaryGemm, NoRowsTouchNothing) {
  const Problem p = random_problem(1, 70, 129);
  EXPECT_EQ(integers(p, 0, 0, 0, p.n), std::vector<std::int32_t>());
}

TEST_P(TernaryGemm, Extremes) {
  for (int activation : {127, -127, -128}) {
    for (int code : {1, -1, 0}) {
      for (int k : {240, 6912, 70000}) {
        for (int m : {1, 4}) {
          expect_exact(make_problem(m, 17, k, [=] { return activation; }, [=] { return code; }));
        }
      }
    }
  }
}

TEST_P(TernaryGemm, OneHotWeights) {
  // Every position of a panel's block: a layout or lane mix-up cannot cancel.
  for (int row = 0; row < 32; ++row) {
    for (int column = 0; column < 40; ++column) {
      int next = 1;
      Problem p = make_problem(1, 32, 40, [&] { return next++; }, [] { return 0; });
      p.codes[static_cast<std::size_t>(row * 40 + column)] = 1;
      finish(p);
      ASSERT_EQ(p.acc[static_cast<std::size_t>(row)], column + 1);
      expect_exact(p);
    }
  }
}

TEST_P(TernaryGemm, ColumnRangesTouchNothingElse) {
  const Problem p = random_problem(5, 115, 129);
  const std::int64_t height = panel_rows(layout());
  for (std::int64_t begin : {0, 16, 32, 64, 96}) {
    for (std::int64_t end : {16, 32, 64, 80, 96, 115}) {
      if (end <= begin || begin % height != 0 || (end % height != 0 && end != p.n)) continue;
      const auto out = integers(p, 0, p.m, begin, end);
      for (std::int64_t r = 0; r < p.m; ++r) {
        for (std::int64_t j = 0; j < p.n; ++j) {
          const auto i = static_cast<std::size_t>(r * p.n + j);
          EXPECT_EQ(out[i], begin <= j && j < end ? p.acc[i] : kPoison) << r << "," << j;
        }
      }
    }
  }
}

TEST_P(TernaryGemm, FloatsAreOneExpression) {
  for (int m : {1, 6}) {
    Problem p = random_problem(m, 83, 257);
    p.q_scale[0] = std::nanf("");
    std::vector<float> y(static_cast<std::size_t>(m * 83), std::nanf(""));
    const float w_scale = 0.0371f;
    float_product(table(), layout(), p, w_scale, y.data());
    for (std::size_t i = 0; i < y.size(); ++i) {
      const std::size_t row = i / 83;
      if (row == 0) {
        EXPECT_TRUE(std::isnan(y[i])) << "a poisoned scale must show";
      } else {
        EXPECT_EQ(y[i], static_cast<float>(p.acc[i]) * (p.q_scale[row] * w_scale));
      }
    }
  }
}

TEST_P(TernaryGemm, ThreadCounts) {
  const Problem p = random_problem(3, 83, 130);
  for (int threads : {1, 2, 3, 5, 8, 64}) {
    std::vector<std::int32_t> out(p.acc.size(), kPoison);
    std::vector<std::thread> pool;
    const std::int64_t height = panel_rows(layout()), panels = (p.n + height - 1) / height;
    for (int t = 0; t < threads; ++t) {
      const std::int64_t begin = panels * t / threads * height;
      const std::int64_t end = std::min(panels * (t + 1) / threads * height, p.n);
      if (begin >= end) continue;
      pool.emplace_back([&, begin, end] {
        integer_product(table(), layout(), p, 0, p.m, begin, end, out.data());
      });
    }
    for (std::thread& thread : pool) thread.join();
    EXPECT_EQ(out, p.acc) << threads << " threads";
  }
}

std::string case_name(const testing::TestParamInfo<TernaryGemm::ParamType>& info) {
  constexpr const char* kNames[] = {"t2", "t1", "lut"};
  const Layout layout = std::get<1>(info.param);
  return table_name(std::get<0>(info.param)) + "_" + kNames[static_cast<int>(layout)];
}

INSTANTIATE_TEST_SUITE_P(Isa, TernaryGemm,
                         testing::Combine(testing::ValuesIn(tables()),
                                          testing::Values(Layout::t2, Layout::t1, Layout::lut)),
                         case_name);

}  // namespace
}  // namespace wf::test
