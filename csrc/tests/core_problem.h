// Random ternary products and their plain answers, shared by the kernel tests.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "dispatch.h"
#include "layout/lut.h"
#include "layout/t1.h"
#include "layout/t2.h"

namespace wf::test {

// Every table this machine can run, best first, and the emulated ones where they were built.
std::vector<const KernelTable*> tables();

// A test name may hold letters, digits and underscores only.
inline std::string table_name(const KernelTable* table) { return table->isa; }

struct Problem {
  std::int64_t m, n, k, q_stride;
  std::vector<std::int8_t> q;             // m rows of q_stride bytes, padded with 0
  std::vector<float> q_scale;             // m
  std::vector<std::int32_t> q_sum;        // m
  std::vector<std::int8_t> codes;         // n x k
  std::vector<std::uint8_t> t2, t1, lut;  // codes in each layout
  std::vector<std::int32_t> acc;          // m x n, the answer, from 64-bit sums
};

// Fills what follows from q and codes.
inline void finish(Problem& p) {
  p.t2.assign(static_cast<std::size_t>(t2::size_bytes(p.n, p.k)), 0xee);
  t2::pack(p.codes.data(), p.n, p.k, p.t2.data());
  p.t1.assign(static_cast<std::size_t>(t1::size_bytes(p.n, p.k)), 0xee);
  t1::pack(p.codes.data(), p.n, p.k, p.t1.data());
  p.lut.assign(static_cast<std::size_t>(lut::size_bytes(p.n, p.k)), 0xee);
  lut::pack(p.codes.data(), p.n, p.k, p.lut.data());
  p.q_sum.assign(static_cast<std::size_t>(p.m), 0);
  p.acc.assign(static_cast<std::size_t>(p.m * p.n), 0);
  for (std::int64_t r = 0; r < p.m; ++r) {
    const std::int8_t* q = p.q.data() + r * p.q_stride;
    for (std::int64_t c = 0; c < p.k; ++c) p.q_sum[static_cast<std::size_t>(r)] += q[c];
    for (std::int64_t j = 0; j < p.n; ++j) {
      std::int64_t sum = 0;
      for (std::int64_t c = 0; c < p.k; ++c)
        sum += q[c] * p.codes[static_cast<std::size_t>(j * p.k + c)];
      p.acc[static_cast<std::size_t>(r * p.n + j)] = static_cast<std::int32_t>(sum);
    }
  }
}

template <class Activation, class Code>
Problem make_problem(std::int64_t m, std::int64_t n, std::int64_t k, Activation activation,
                     Code code) {
  Problem p{m, n, k, act_stride(k), {}, {}, {}, {}, {}, {}, {}, {}};
  p.q.assign(static_cast<std::size_t>(m * p.q_stride), 0);
  p.q_scale.resize(static_cast<std::size_t>(m));
  p.codes.resize(static_cast<std::size_t>(n * k));
  for (std::int64_t r = 0; r < m; ++r) {
    p.q_scale[static_cast<std::size_t>(r)] = 0.01f * static_cast<float>(r + 1);
    for (std::int64_t c = 0; c < k; ++c) {
      p.q[static_cast<std::size_t>(r * p.q_stride + c)] = static_cast<std::int8_t>(activation());
    }
  }
  for (auto& c : p.codes) c = static_cast<std::int8_t>(code());
  finish(p);
  return p;
}

inline Problem random_problem(std::int64_t m, std::int64_t n, std::int64_t k) {
  std::mt19937 rng(static_cast<unsigned>(m * 7919 + n * 104729 + k));
  return make_problem(
      m, n, k, [&] { return static_cast<int>(rng() % 256) - 128; },
      [&] { return static_cast<int>(rng() % 3) - 1; });
}

// The layouts that products run on.
enum class Layout { t2, t1, lut };

inline std::int64_t panel_rows(Layout layout) { return layout == Layout::lut ? 32 : 16; }

// One kernel on rows [row, row + rows) and columns [n_begin, n_end) of a problem; `to` is the first
// of these rows, of p.n elements each.
inline void integer_product(const KernelTable& table, Layout layout, const Problem& p,
                            std::int64_t row, std::int64_t rows, std::int64_t n_begin,
                            std::int64_t n_end, std::int32_t* to) {
  const std::int8_t* q = p.q.data() + row * p.q_stride;
  const std::int32_t* sum = p.q_sum.data() + row;
  if (layout == Layout::t2) {
    table.gemm_s8_t2_i32(q, p.q_stride, sum, rows, p.t2.data(), p.k, n_begin, n_end, to, p.n);
  } else if (layout == Layout::t1) {
    table.gemm_s8_t1_i32(q, p.q_stride, sum, rows, p.t1.data(), p.k, n_begin, n_end, to, p.n);
  } else {
    const std::int64_t bytes = lut::tables_bytes(p.k);
    std::vector<std::uint8_t> tables(static_cast<std::size_t>(rows * bytes), 0xee);
    for (std::int64_t r = 0; r < rows; ++r) {
      table.lut_tables(q + r * p.q_stride, p.k, tables.data() + r * bytes);
    }
    table.gemm_lut_i32(tables.data(), rows, p.lut.data(), p.k, n_begin, n_end, to, p.n);
  }
}

inline void float_product(const KernelTable& table, Layout layout, const Problem& p, float w_scale,
                          float* to) {
  if (layout == Layout::t2) {
    table.gemm_s8_t2(p.q.data(), p.q_stride, p.q_scale.data(), p.q_sum.data(), p.m, p.t2.data(),
                     w_scale, p.k, 0, p.n, to, p.n);
  } else if (layout == Layout::t1) {
    table.gemm_s8_t1(p.q.data(), p.q_stride, p.q_scale.data(), p.q_sum.data(), p.m, p.t1.data(),
                     w_scale, p.k, 0, p.n, to, p.n);
  } else {
    const std::int64_t bytes = lut::tables_bytes(p.k);
    std::vector<std::uint8_t> tables(static_cast<std::size_t>(p.m * bytes), 0xee);
    for (std::int64_t r = 0; r < p.m; ++r) {
      table.lut_tables(p.q.data() + r * p.q_stride, p.k, tables.data() + r * bytes);
    }
    table.gemm_lut(tables.data(), p.q_scale.data(), p.m, p.lut.data(), w_scale, p.k, 0, p.n, to,
                   p.n);
  }
}

}  // namespace wf::test
