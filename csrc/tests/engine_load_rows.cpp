// The rows of a matrix after loading: those of the file, whatever the type and the number of
// threads.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "engine_files.h"
#include "error.h"
#include "gguf.h"
#include "layout/half.h"
#include "layout/i2s.h"
#include "layout/q4_0.h"
#include "layout/tq1_0.h"
#include "layout/tq2_0.h"
#include "tensor_source.h"

namespace wf::engine {
namespace {

// Several chunks, the last of them short and without a whole panel.
constexpr int64_t kHeadDim = 22;
constexpr int64_t kRows = 15 * kHeadDim;
constexpr int64_t kColumns = 256;
constexpr float kScale = 0.75f;  // exact in all float types
const char* const kName = "model.layers.0.self_attn.q_proj.weight";

std::vector<int8_t> random_codes() {
  std::vector<int8_t> codes(kRows * kColumns);
  uint32_t state = 1;
  for (int8_t& code : codes) {
    state = state * 1664525 + 1013904223;
    code = static_cast<int8_t>(static_cast<int>((state >> 16) % 3) - 1);
  }
  return codes;
}

std::string encoded(GgufType type, const std::vector<int8_t>& codes) {
  std::string bytes(kRows * kColumns * 4 + 32, '\0');
  auto* packed = reinterpret_cast<uint8_t*>(bytes.data());
  switch (type) {
    case GgufType::i2_s:
      i2s::pack(codes.data(), kRows, kColumns, kScale, packed);
      bytes.resize(i2s::size_bytes(kRows, kColumns));
      break;
    case GgufType::tq2_0:
      tq2_0::pack(codes.data(), kRows, kColumns, kScale, packed);
      bytes.resize(tq2_0::size_bytes(kRows, kColumns));
      break;
    case GgufType::tq1_0:
      tq1_0::pack(codes.data(), kRows, kColumns, kScale, packed);
      bytes.resize(tq1_0::size_bytes(kRows, kColumns));
      break;
    case GgufType::q4_0:
      q4_0::pack(codes.data(), kRows, kColumns, kScale, packed);
      bytes.resize(q4_0::size_bytes(kRows, kColumns));
      break;
    case GgufType::iq2_bn: {
      Bytes rows;
      for (int64_t row = 0; row < kRows; ++row) {
        rows.put(kScale);
        for (int64_t i = 0; i < kColumns / 4; ++i) {
          const int8_t* from = &codes[row * kColumns + i / 16 * 64 + i % 16];
          const int byte =
              from[0] + 1 + 4 * (from[16] + 1) + 16 * (from[32] + 1) + 64 * (from[48] + 1);
          rows.put(static_cast<uint8_t>(byte));
        }
      }
      return rows.data();
    }
    default: {  // F16
      Bytes halves;
      for (const int8_t code : codes) halves.put(half::f32_to_f16(kScale * code));
      return halves.data();
    }
  }
  return bytes;
}

std::string gguf_bytes(GgufType type, const std::string& data) {
  Bytes bytes;
  bytes.raw("GGUF").put<uint32_t>(3).put<uint64_t>(1).put<uint64_t>(1);
  bytes.string("wrinklefree.schema").put<uint32_t>(4).put<uint32_t>(1);
  bytes.string("blk.0.attn_q.weight").put<uint32_t>(2).put<uint64_t>(kColumns);
  bytes.put<uint64_t>(kRows).put(static_cast<uint32_t>(type)).put<uint64_t>(0);
  return bytes.pad(32).raw(data).data();
}

std::string safetensors_bytes(const std::string& data) {
  const std::string header = std::string("{\"") + kName + "\":{\"dtype\":\"F32\",\"shape\":[" +
                             std::to_string(kRows) + "," + std::to_string(kColumns) +
                             "],\"data_offsets\":[0," + std::to_string(data.size()) + "]}}";
  return Bytes().put<uint64_t>(header.size()).raw(header).raw(data).data();
}

Matrix load(const TensorSource& source, int threads, bool may_be_ternary, TernaryLayout layout) {
  LoadWorkers workers(threads);
  return source.matrix({kName, kRows, kColumns, may_be_ternary, kHeadDim, layout}, workers);
}

bool is_same(const Matrix& a, const Matrix& b) {
  return a.is_ternary() == b.is_ternary() && a.scale() == b.scale() && a.bytes() == b.bytes() &&
         std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

using Weights = std::vector<float>;

Weights all_rows(const Matrix& matrix) {
  Weights weights(kRows * kColumns);
  for (int64_t i = 0; i < kRows; ++i) matrix.read_row(i, &weights[i * kColumns]);
  return weights;
}

class LoadRows : public testing::TestWithParam<GgufType> {
 protected:
  TemporaryDirectory directory_;
  const std::vector<int8_t> codes_ = random_codes();
};

TEST_P(LoadRows, AreThoseOfTheFileForAnyNumberOfThreads) {
  const auto bytes = gguf_bytes(GetParam(), encoded(GetParam(), codes_));
  const GgufFile file(directory_.write("m.gguf", bytes));
  Weights stored(codes_.size());
  for (size_t i = 0; i < codes_.size(); ++i) stored[i] = kScale * codes_[i];
  // A head's rows 0, 1, 2, ... of llama.cpp are rows 0, 11, 1, ... here.
  Weights separated(codes_.size());
  for (int64_t row = 0; row < kRows; ++row) {
    const int64_t within = row % kHeadDim;
    const int64_t place = row - within + (within % 2 == 0 ? 0 : kHeadDim / 2) + within / 2;
    std::copy_n(&stored[row * kColumns], kColumns, &separated[place * kColumns]);
  }
  for (const bool is_interleaved : {false, true}) {
    const auto source = open_gguf(file, is_interleaved);
    for (const TernaryLayout layout : {TernaryLayout::t2, TernaryLayout::t1}) {
      for (const bool may_be_ternary : {true, false}) {
        const bool is_fork_type = GetParam() == GgufType::i2_s || GetParam() == GgufType::iq2_bn;
        if (!may_be_ternary && is_fork_type) continue;
        const Matrix one = load(*source, 1, may_be_ternary, layout);
        EXPECT_EQ(one.is_ternary(), may_be_ternary);
        EXPECT_EQ(all_rows(one), is_interleaved ? separated : stored);
        for (const int threads : {2, 5}) {
          EXPECT_TRUE(is_same(load(*source, threads, may_be_ternary, layout), one));
        }
      }
    }
  }
}

// No code has the 2-bit digit 3, nor any block that scale; other types then run as float32.
TEST_P(LoadRows, TheOutcomeOfADamagedRowIsTheSameForAnyNumberOfThreads) {
  std::string data = encoded(GetParam(), codes_);
  const size_t row_bytes = data.size() / kRows;
  const size_t at = GetParam() == GgufType::tq1_0 ? 53 : 20;
  for (const int64_t row : {130, 200, 329}) data[row * row_bytes + at] = '\xff';
  const GgufFile file(directory_.write("m.gguf", gguf_bytes(GetParam(), data)));
  const auto source = open_gguf(file, false);
  const auto outcome = [&](int threads) -> std::string {
    try {
      const Matrix matrix = load(*source, threads, true, TernaryLayout::t2);
      return matrix.is_ternary() ? "ternary" : "dense";
    } catch (const FormatError& error) {
      return error.what();
    }
  };
  const std::string one = outcome(1);
  EXPECT_NE(one, "ternary");
  for (const int threads : {2, 5}) EXPECT_EQ(outcome(threads), one);
}

// The engine keeps one scale a matrix.
TEST(LoadIq2Bn, RowsHaveOneScale) {
  TemporaryDirectory directory;
  const std::string data = encoded(GgufType::iq2_bn, random_codes());
  const size_t row_bytes = data.size() / kRows;
  const auto load_with_scale = [&](size_t row, float scale) {
    std::string changed = data;
    std::memcpy(&changed[row * row_bytes], &scale, sizeof scale);
    const GgufFile file(directory.write("m.gguf", gguf_bytes(GgufType::iq2_bn, changed)));
    return load(*open_gguf(file, false), 2, true, TernaryLayout::t2);
  };
  EXPECT_EQ(load_with_scale(0, 0).scale(), kScale);  // a row of zeros has any
  const auto problem = [&](float scale) {
    return error_of<FormatError>([&] { load_with_scale(7, scale); });
  };
  EXPECT_NE(problem(2 * kScale).find("rows have different scales"), std::string::npos);
  EXPECT_NE(problem(-kScale).find("scale is negative or not finite"), std::string::npos);
  EXPECT_NE(problem(NAN).find("scale is negative or not finite"), std::string::npos);
}

std::string type_name(const testing::TestParamInfo<GgufType>& info) {
  return find_gguf_type(static_cast<uint32_t>(info.param))->name;
}

INSTANTIATE_TEST_SUITE_P(Gguf, LoadRows,
                         testing::Values(GgufType::i2_s, GgufType::tq2_0, GgufType::tq1_0,
                                         GgufType::q4_0, GgufType::f16, GgufType::iq2_bn),
                         type_name);

TEST(LoadMasters, GiveTheSameCodesAndScaleForAnyNumberOfThreads) {
  TemporaryDirectory directory;
  Bytes masters;
  uint32_t state = 1;
  for (int64_t i = 0; i < kRows * kColumns; ++i) {
    state = state * 1664525 + 1013904223;
    masters.put(static_cast<float>(state) * 0x1p-32f - 0.5f);
  }
  directory.write("model.safetensors", safetensors_bytes(masters.data()));
  for (const bool is_ternary : {true, false}) {
    const auto source = open_safetensors(directory.path(), is_ternary);
    const Matrix one = load(*source, 1, true, TernaryLayout::t2);
    EXPECT_EQ(one.is_ternary(), is_ternary);
    for (const int threads : {2, 5}) {
      EXPECT_TRUE(is_same(load(*source, threads, true, TernaryLayout::t2), one));
    }
  }
}

TEST(LoadFile, ThatShrinksGivesTheSameErrorForAnyNumberOfThreads) {
  TemporaryDirectory directory;
  const auto bytes = gguf_bytes(GgufType::tq2_0, encoded(GgufType::tq2_0, random_codes()));
  const std::string path = directory.write("m.gguf", bytes);
  const GgufFile file(path);
  std::filesystem::resize_file(path, bytes.size() / 2);
  const auto source = open_gguf(file, false);
  const auto problem = [&](int threads) {
    return error_of<FormatError>([&] { load(*source, threads, true, TernaryLayout::t2); });
  };
  const std::string one = problem(1);
  EXPECT_NE(one.find("became shorter"), std::string::npos) << one;
  for (const int threads : {2, 5}) EXPECT_EQ(problem(threads), one);
}

}  // namespace
}  // namespace wf::engine
