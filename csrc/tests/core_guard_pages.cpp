// Every kernel on buffers that begin right behind, or end right before, a page that faults: one
// byte read or written outside its operands ends the process.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core_problem.h"
#include "layout/i8.h"
#include "layout/kv.h"
#include "layout/q6_k.h"
#include "layout/q8_0.h"

namespace wf::test {
namespace {

// `count` elements between two pages without access.
template <class T>
class Guarded {
 public:
  Guarded(std::int64_t count, bool at_end) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    const std::size_t inner = (bytes + page - 1) / page * page;
    mapped_ = inner + 2 * page;
    base_ = static_cast<std::uint8_t*>(
        mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(base_, MAP_FAILED);
    EXPECT_EQ(mprotect(base_ + page, inner, PROT_READ | PROT_WRITE), 0);
    data_ = reinterpret_cast<T*>(base_ + page + (at_end ? inner - bytes : 0));
  }
  Guarded(const std::vector<T>& values, bool at_end)
      : Guarded(static_cast<std::int64_t>(values.size()), at_end) {
    std::copy(values.begin(), values.end(), data_);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, mapped_); }

  T* data() const { return data_; }

 private:
  std::uint8_t* base_;
  std::size_t mapped_;
  T* data_;
};

class GuardPages : public testing::TestWithParam<std::tuple<const KernelTable*, bool>> {
 protected:
  static const KernelTable& table() { return *std::get<0>(GetParam()); }
  static bool at_end() { return std::get<1>(GetParam()); }
};

std::vector<float> ramp(std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7) - 3.0f;
  return values;
}

TEST_P(GuardPages, TernaryProducts) {
  for (const auto& [m, n, k] : {std::tuple{1, 5, 33}, {3, 17, 64}, {9, 70, 1300}, {6, 33, 20}}) {
    const Problem p = random_problem(m, n, k);
    const Guarded<std::int8_t> q(p.q, at_end());
    const Guarded<float> scale(p.q_scale, at_end());
    const Guarded<std::int32_t> sum(p.q_sum, at_end());
    const Guarded<std::uint8_t> w2(p.t2, at_end()), w1(p.t1, at_end()), wl(p.lut, at_end());
    const Guarded<std::uint8_t> tables(p.m * lut::tables_bytes(k), at_end());
    const Guarded<float> y(p.m * p.n, at_end());
    const Guarded<std::int32_t> acc(p.m * p.n, at_end());
    const auto expect_exact = [&] {
      EXPECT_TRUE(std::equal(p.acc.begin(), p.acc.end(), acc.data()));
    };
    table().gemm_s8_t2(q.data(), p.q_stride, scale.data(), sum.data(), m, w2.data(), 0.1f, k, 0, n,
                       y.data(), n);
    table().gemm_s8_t2_i32(q.data(), p.q_stride, sum.data(), m, w2.data(), k, 0, n, acc.data(), n);
    expect_exact();
    table().gemm_s8_t1(q.data(), p.q_stride, scale.data(), sum.data(), m, w1.data(), 0.1f, k, 0, n,
                       y.data(), n);
    table().gemm_s8_t1_i32(q.data(), p.q_stride, sum.data(), m, w1.data(), k, 0, n, acc.data(), n);
    expect_exact();
    for (std::int64_t r = 0; r < m; ++r) {
      table().lut_tables(q.data() + r * p.q_stride, k, tables.data() + r * lut::tables_bytes(k));
    }
    table().gemm_lut(tables.data(), scale.data(), m, wl.data(), 0.1f, k, 0, n, y.data(), n);
    table().gemm_lut_i32(tables.data(), m, wl.data(), k, 0, n, acc.data(), n);
    expect_exact();
  }
}

TEST_P(GuardPages, Quantizers) {
  for (std::int64_t k : {1, 7, 8, 33, 1025}) {
    const Guarded<float> x(ramp(2 * k), at_end());
    const Guarded<std::int8_t> q(2 * act_stride(k), at_end());
    const Guarded<float> scale(2, at_end());
    const Guarded<std::int32_t> sum(2, at_end());
    table().quantize_act_int8(x.data(), k, 2, k, q.data(), act_stride(k), scale.data(), sum.data());
    EXPECT_GT(scale.data()[1], 0.0f);
    const Guarded<std::int8_t> codes(k, at_end());
    table().ternary_codes(x.data(), k, 1.0f, codes.data());
    EXPECT_EQ(codes.data()[0], -1);
    for (const TrainType type : {TrainType::f32, TrainType::bf16}) {
      const std::int64_t bytes = type == TrainType::f32 ? 4 : 2;
      const Guarded<std::uint8_t> in(2 * k * bytes, at_end()), out(2 * k * bytes, at_end());
      std::memset(in.data(), 0x3f, static_cast<std::size_t>(2 * k * bytes));
      EXPECT_GT(table().sum_abs(in.data(), type, 2 * k), 0.0);
      for (const bool around_cache : {false, true}) {
        table().fake_quant_ternary(in.data(), type, 2 * k, 0.5f, 0.5f, around_cache, out.data());
        table().fake_quant_act(in.data(), type, 2, k, 0.5f, around_cache, out.data());
        EXPECT_NE(out.data()[2 * k * bytes - 1], 0);
      }
    }
  }
}

TEST_P(GuardPages, FloatKernels) {
  for (std::int64_t k : {1, 7, 8, 33, 96, 256}) {
    const Guarded<float> x(ramp(k), at_end()), gain(ramp(k), at_end()), y(k, at_end());
    table().rms_norm(x.data(), gain.data(), k, 1e-5f, y.data());
    table().rms_norm(x.data(), nullptr, k, 1e-5f, y.data());
    const Guarded<float> x_grad(k, at_end()), gain_grad(k, at_end());
    table().rms_norm_grad(x.data(), gain.data(), y.data(), k, 1e-5f, x_grad.data(),
                          gain_grad.data());
    const Guarded<std::uint16_t> halves(k, at_end());
    table().round_to_bf16(x.data(), k, halves.data());
    table().widen_bf16(halves.data(), k, y.data());
    for (const Gate gate : {Gate::silu, Gate::relu2}) {
      table().gated_act(x.data(), gain.data(), k, gate, y.data());
    }
    EXPECT_GT(table().log_sum_exp(x.data(), k), -4.0f);
    constexpr std::int64_t kOutputs = 5;
    for (const auto& [type, row_bytes] : {std::pair{DenseType::f32, 4 * k},
                                          {DenseType::f16, 2 * k},
                                          {DenseType::bf16, 2 * k},
                                          {DenseType::q8_0, q8_0::row_bytes(k)},
                                          {DenseType::q6_k, q6_k::row_bytes(k)}}) {
      if (type == DenseType::q8_0 && k % q8_0::kBlock != 0) continue;
      if (type == DenseType::q6_k && k % q6_k::kBlock != 0) continue;
      const Guarded<std::uint8_t> w(kOutputs * row_bytes, at_end());
      const Guarded<float> rows(ramp(3 * k), at_end()), out(3 * kOutputs, at_end());
      table().gemm_f32_dense(rows.data(), k, 3, w.data(), type, k, 0, kOutputs, out.data(),
                             kOutputs);
      EXPECT_EQ(out.data()[3 * kOutputs - 1], 0.0f);  // the weights are zeros
    }
  }
}

TEST_P(GuardPages, Screen) {
  for (std::int64_t k : {1, 7, 32, 33, 96}) {
    const Guarded<float> row(ramp(k), at_end());
    const Guarded<std::int8_t> codes(k, at_end());
    EXPECT_GT(table().screen_row(row.data(), DenseType::f32, k, codes.data()).norm, 0.0f);
    constexpr std::int64_t kOutputs = 70;
    const Guarded<std::int8_t> packed(i8::size_bytes(kOutputs, k), at_end());
    const Guarded<std::int16_t> q(5 * i8::blocks(k) * i8::kColumns, at_end());
    const Guarded<std::int32_t> acc(5 * kOutputs, at_end());
    acc.data()[5 * kOutputs - 1] = 1;
    table().gemm_s16_i8(q.data(), i8::blocks(k) * i8::kColumns, 5, packed.data(), k, 0, kOutputs,
                        acc.data(), kOutputs);
    EXPECT_EQ(acc.data()[5 * kOutputs - 1], 0);  // the weights are zeros
  }
}

TEST_P(GuardPages, Attention) {
  for (const KvType type : {KvType::f32, KvType::f16, KvType::bf16, KvType::int8}) {
    for (std::int64_t head_dim : {8, 64, 76}) {
      const std::int64_t block = kv::head_bytes(type, head_dim);
      const Guarded<std::uint8_t> first(2 * block, at_end()), second(2 * block, at_end());
      const std::uint8_t* pages[] = {first.data(), second.data()};
      const Guarded<float> x(ramp(head_dim), at_end());
      for (std::int64_t position = 0; position < 2 * kKvPage; ++position) {
        std::uint8_t* page = position < kKvPage ? first.data() : second.data();
        table().store_kv(x.data(), x.data(), type, head_dim, position % kKvPage, page,
                         page + block);
      }
      for (std::int64_t heads : {1, 2, 3}) {
        const Guarded<float> q(ramp(heads * head_dim), at_end()), out(heads * head_dim, at_end());
        for (std::int64_t positions : {1, 31, 32, 33, 64}) {
          const Guarded<SoftmaxPart> parts(heads, at_end());
          for (std::int64_t begin = 0; begin < positions; begin += kKvPage) {
            table().attention(q.data(), heads, pages, type, 0, block, begin, positions, head_dim,
                              0.1f, out.data(), parts.data());
            EXPECT_NEAR(out.data()[heads * head_dim - 1] / parts.data()[heads - 1].total,
                        x.data()[head_dim - 1], 0.02f);
          }
        }
      }
    }
  }
}

std::string case_name(const testing::TestParamInfo<GuardPages::ParamType>& info) {
  return table_name(std::get<0>(info.param)) + (std::get<1>(info.param) ? "_before" : "_behind");
}

INSTANTIATE_TEST_SUITE_P(Isa, GuardPages,
                         testing::Combine(testing::ValuesIn(tables()), testing::Bool()), case_name);

}  // namespace
}  // namespace wf::test
