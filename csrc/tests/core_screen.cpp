// The int8 copy of dense rows: what it claims of its own error, and its product with int16 rows.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "coded_rows.h"
#include "core_problem.h"
#include "layout/half.h"
#include "layout/i8.h"

namespace wf::test {
namespace {

class Screen : public testing::TestWithParam<const KernelTable*> {
 protected:
  static const KernelTable& table() { return *GetParam(); }
};

struct PairProblem {
  std::int64_t m, n, k, stride;
  std::vector<std::int16_t> q;
  std::vector<std::int8_t> rows, packed;

  std::int64_t answer(std::int64_t r, std::int64_t j) const {
    std::int64_t sum = 0;
    for (std::int64_t c = 0; c < k; ++c) {
      sum += std::int64_t{q[static_cast<std::size_t>(r * stride + c)]} *
             rows[static_cast<std::size_t>(j * k + c)];
    }
    return sum;
  }
};

template <class Activation, class Weight>
PairProblem make_pairs(std::int64_t m, std::int64_t n, std::int64_t k, Activation activation,
                       Weight weight) {
  PairProblem p{m, n, k, i8::blocks(k) * i8::kColumns, {}, {}, {}};
  p.q.assign(static_cast<std::size_t>(m * p.stride), 0);
  p.rows.resize(static_cast<std::size_t>(n * k));
  p.packed.assign(static_cast<std::size_t>(i8::size_bytes(n, k)), 0);
  for (std::int64_t r = 0; r < m; ++r) {
    for (std::int64_t c = 0; c < k; ++c) {
      p.q[static_cast<std::size_t>(r * p.stride + c)] = static_cast<std::int16_t>(activation());
    }
  }
  for (std::int8_t& w : p.rows) w = static_cast<std::int8_t>(weight());
  for (std::int64_t first = 0; first < n; first += i8::kRows) {
    i8::pack_panel(p.rows.data() + first * k, std::min(i8::kRows, n - first), k,
                   p.packed.data() + first / i8::kRows * i8::panel_bytes(k));
  }
  return p;
}

TEST_P(Screen, PairProductsAreExact) {
  std::mt19937 rng(1);
  for (const std::int64_t k : {1, 2, 3, 33, 576}) {
    for (const std::int64_t n : {1, 15, 16, 17, 64, 131}) {
      for (const std::int64_t m : {1, 2, 4, 5, 9}) {
        const auto limit = static_cast<std::uint32_t>(
            std::min<std::int64_t>(std::numeric_limits<std::int32_t>::max() / (127 * k), 32767));
        const PairProblem p = make_pairs(
            m, n, k,
            [&] { return static_cast<int>(rng() % (2 * limit + 1)) - static_cast<int>(limit); },
            [&] { return static_cast<int>(rng() % 255) - 127; });
        std::vector<std::int32_t> acc(static_cast<std::size_t>(m * n), 77);
        table().gemm_s16_i8(p.q.data(), p.stride, m, p.packed.data(), k, 0, n, acc.data(), n);
        for (std::int64_t r = 0; r < m; ++r) {
          for (std::int64_t j = 0; j < n; ++j) {
            ASSERT_EQ(acc[static_cast<std::size_t>(r * n + j)], p.answer(r, j))
                << "M=" << m << " N=" << n << " K=" << k << " row " << r << " column " << j;
          }
        }
      }
    }
  }
}

// All extremes at the largest magnitudes that the contract allows.
TEST_P(Screen, PairProductsHoldExtremes) {
  for (const std::int64_t k : {1, 2560, 16384}) {
    const auto limit = static_cast<int>(
        std::min<std::int64_t>(std::numeric_limits<std::int32_t>::max() / (127 * k), 32767));
    for (const int sign : {1, -1}) {
      const PairProblem p = make_pairs(2, 3, k, [&] { return limit; }, [&] { return sign * 127; });
      std::int32_t acc[6] = {};
      table().gemm_s16_i8(p.q.data(), p.stride, 2, p.packed.data(), k, 0, 3, acc, 3);
      for (const std::int32_t sum : acc) EXPECT_EQ(sum, sign * 127 * k * limit);
    }
  }
}

TEST_P(Screen, PairRangesWriteNothingElse) {
  const PairProblem p = make_pairs(1, 70, 9, [] { return 5; }, [] { return -3; });
  std::vector<std::int32_t> acc(70, 77);
  table().gemm_s16_i8(p.q.data(), p.stride, 1, p.packed.data(), 9, 16, 48, acc.data(), 70);
  for (std::int64_t j = 0; j < 70; ++j) {
    EXPECT_EQ(acc[static_cast<std::size_t>(j)], j >= 16 && j < 48 ? -135 : 77);
  }
}

// One row in every type; `values` are rounded to it.
std::vector<std::uint8_t> dense_row(DenseType type, const std::vector<float>& values) {
  std::vector<std::uint8_t> row(values.size() * 4);
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint8_t* at = row.data() + i * (type == DenseType::f32 ? 4 : 2);
    if (type == DenseType::f32) std::memcpy(at, &values[i], 4);
    if (type == DenseType::f16) half::store_u16(at, half::f32_to_f16(values[i]));
    if (type == DenseType::bf16) half::store_u16(at, half::f32_to_bf16(values[i]));
  }
  return row;
}

double stored(DenseType type, const std::uint8_t* row, std::size_t i) {
  float value = 0;
  switch (type) {
    case DenseType::f32:
      std::memcpy(&value, row + 4 * i, 4);
      return value;
    case DenseType::f16:
      return half::f16_to_f32(half::load_u16(row + 2 * i));
    case DenseType::bf16:
      return half::bf16_to_f32(half::load_u16(row + 2 * i));
    case DenseType::q8_0:
      return half::f16_to_f32(half::load_u16(row + i / 32 * 34)) *
             double{static_cast<float>(static_cast<std::int8_t>(row[i / 32 * 34 + 2 + i % 32]))};
    case DenseType::q6_k: {
      float part[q6_k::kPart];
      q6_k::weights(row, static_cast<std::int64_t>(i / 32 * 32), part);
      return part[i % 32];
    }
  }
  return 0;
}

void check_row(const KernelTable& table, DenseType type, const std::uint8_t* row, std::size_t k) {
  std::vector<std::int8_t> codes(k, 99);
  const RowScreen screen = table.screen_row(row, type, static_cast<std::int64_t>(k), codes.data());
  double error = 0;
  double norm = 0;
  double absmax = 0;
  for (std::size_t i = 0; i < k; ++i) {
    const double w = stored(type, row, i);
    const double coded = double{screen.scale} * codes[i];
    error += (w - coded) * (w - coded);
    norm += coded * coded;
    absmax = std::max(absmax, std::fabs(w));
    ASSERT_LE(std::abs(codes[i]), 127);
    ASSERT_LE(std::fabs(w - coded), 0.5001 * screen.scale) << "column " << i;
  }
  EXPECT_LE(std::sqrt(error), screen.error);
  EXPECT_LE(std::sqrt(norm), screen.norm);
  // And not much more than that, or screening would rule nothing out.
  EXPECT_LE(screen.error, 1.01 * std::sqrt(error) + 1e-6 * std::sqrt(norm) + 1e-17);
  EXPECT_LE(screen.norm, 1.01 * std::sqrt(norm) + 1e-17);
  EXPECT_NEAR(screen.scale, std::max(absmax, 1e-30) / 127, 1e-6 * screen.scale);
}

TEST_P(Screen, RowsKnowTheirError) {
  std::mt19937 rng(2);
  std::normal_distribution<float> normal;
  for (const std::size_t k : {1u, 31u, 32u, 33u, 576u, 2560u}) {
    for (const float size : {0.0f, 1e-6f, 0.02f, 100.0f}) {
      std::vector<float> values(k);
      for (float& value : values) value = size * normal(rng);
      for (const DenseType type : {DenseType::f32, DenseType::f16, DenseType::bf16}) {
        check_row(table(), type, dense_row(type, values).data(), k);
      }
    }
  }
  for (const auto& [type, k] : {std::pair{DenseType::q8_0, 32},
                                {DenseType::q8_0, 576},
                                {DenseType::q6_k, 256},
                                {DenseType::q6_k, 768}}) {
    std::vector<std::uint8_t> row(static_cast<std::size_t>(2 * k));
    fill_coded_row(type, k, 0.001f, rng, row.data());
    check_row(table(), type, row.data(), static_cast<std::size_t>(k));
  }
}

// A value far above the others, rows that int8 holds exactly, and numbers that barely are any.
TEST_P(Screen, OddRowsKnowTheirError) {
  std::vector<float> values(64, 1e-3f);
  values[5] = -1e4f;
  check_row(table(), DenseType::f32, dense_row(DenseType::f32, values).data(), 64);
  for (std::size_t i = 0; i < 64; ++i) values[i] = static_cast<float>(i % 3) - 1.0f;
  check_row(table(), DenseType::f16, dense_row(DenseType::f16, values).data(), 64);
  for (float& value : values) value *= 1e-40f;
  check_row(table(), DenseType::f32, dense_row(DenseType::f32, values).data(), 64);
}

TEST_P(Screen, RowsThatAreNotFiniteAreNeverRuledOut) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    for (const std::size_t at : {0u, 32u, 39u}) {
      std::vector<float> values(40, 1.0f);
      values[at] = bad;
      std::vector<std::int8_t> codes(40, 99);
      const RowScreen screen = table().screen_row(dense_row(DenseType::f32, values).data(),
                                                  DenseType::f32, 40, codes.data());
      EXPECT_EQ(screen.error, std::numeric_limits<float>::infinity());
      EXPECT_EQ(screen.norm, 0.0f);
      EXPECT_EQ(codes, std::vector<std::int8_t>(40, 0));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Screen, testing::ValuesIn(tables()),
                         [](const auto& info) { return table_name(info.param); });

}  // namespace
}  // namespace wf::test
