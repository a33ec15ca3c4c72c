// Linear layers of a GGUF file: which of them become ternary, and what is said of the others.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "engine_files.h"
#include "error.h"
#include "gguf.h"
#include "layout/half.h"
#include "layout/i2s.h"
#include "layout/tq1_0.h"
#include "layout/tq2_0.h"
#include "tensor_source.h"

namespace wf::engine {
namespace {

constexpr int64_t kRows = 4;
constexpr int64_t kColumns = 5;  // no block type has such rows
constexpr int64_t kPacked = 256;
constexpr uint32_t kTq1 = 34, kTq2 = 35, kI2s = 36;
constexpr uint32_t kU32 = 4, kF32 = 0, kF16 = 1, kBf16 = 30;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Weights = std::vector<float>;

// 0.75 is exact in all float types.
Weights ternary_weights() {
  Weights weights;
  for (int i = 0; i < kRows * kColumns; ++i)
    weights.push_back(0.75f * static_cast<float>(i % 3 - 1));
  return weights;
}

std::string encoded(const Weights& weights, uint32_t type) {
  Bytes bytes;
  for (const float weight : weights) {
    if (type == kF32) {
      bytes.put(weight);
    } else {
      bytes.put(type == kF16 ? half::f32_to_f16(weight) : half::f32_to_bf16(weight));
    }
  }
  return bytes.data();
}

class SourceGguf : public testing::Test {
 protected:
  struct Loaded {
    Matrix matrix;
    std::vector<std::string> notes;
  };

  // The only tensor of a file, asked for as q_proj with one head of four rows.
  Loaded load(const std::string& data, int64_t columns, uint32_t type, const std::string& key,
              bool is_interleaved) {
    Bytes bytes;
    bytes.raw("GGUF").put<uint32_t>(3).put<uint64_t>(1).put<uint64_t>(1);
    bytes.string(key).put(kU32).put<uint32_t>(1);
    bytes.string("blk.0.attn_q.weight").put<uint32_t>(2).put(static_cast<uint64_t>(columns));
    bytes.put<uint64_t>(kRows).put(type).put<uint64_t>(0).pad(32).raw(data);
    const GgufFile file(directory_.write("m.gguf", bytes.data()));
    const auto source = open_gguf(file, is_interleaved);
    LoadWorkers workers(1);
    Matrix matrix = source->matrix(
        {"model.layers.0.self_attn.q_proj.weight", kRows, columns, true, 4}, workers);
    return {std::move(matrix), source->notes()};
  }
  Loaded load(const Weights& weights, uint32_t type, const std::string& key, bool is_interleaved) {
    return load(encoded(weights, type), kColumns, type, key, is_interleaved);
  }
  // A ternary type whose rows have 256 weights, all of the code 1.
  Loaded load_packed(const std::string& data, uint32_t type) {
    return load(data, kPacked, type, "wrinklefree.schema", false);
  }
  Loaded load_ours(const Weights& weights, uint32_t type = kF16) {
    return load(weights, type, "wrinklefree.schema", false);
  }

  static Weights row(const Matrix& matrix, int64_t index) {
    Weights values(kColumns);
    matrix.read_row(index, values.data());
    return values;
  }
  static Weights row(const Weights& weights, int64_t index) {
    return Weights(weights.begin() + index * kColumns, weights.begin() + (index + 1) * kColumns);
  }

  TemporaryDirectory directory_;
};

TEST_F(SourceGguf, FloatsOfOneMagnitudeAreTernary) {
  const Weights weights = ternary_weights();
  for (const uint32_t type : {kF32, kF16, kBf16}) {
    const Loaded loaded = load_ours(weights, type);
    ASSERT_TRUE(loaded.matrix.is_ternary());
    EXPECT_EQ(loaded.matrix.scale(), 0.75f);
    EXPECT_TRUE(loaded.notes.empty());
    for (int64_t i = 0; i < kRows; ++i) EXPECT_EQ(row(loaded.matrix, i), row(weights, i));
  }
}

TEST_F(SourceGguf, RowsInterleavedForRotationAreSeparated) {
  const Weights weights = ternary_weights();
  const Matrix values = load(weights, kF16, "wrinklefree.schema", true).matrix;
  const int64_t stored[] = {0, 2, 1, 3};
  for (int64_t i = 0; i < kRows; ++i) EXPECT_EQ(row(values, i), row(weights, stored[i]));
}

TEST_F(SourceGguf, ZerosOfEitherSignAreTernary) {
  Weights weights(kRows * kColumns, -0.0f);
  const Loaded loaded = load_ours(weights);
  ASSERT_TRUE(loaded.matrix.is_ternary());
  EXPECT_EQ(row(loaded.matrix, 3), Weights(kColumns, 0.0f));
}

TEST_F(SourceGguf, OtherFloatsStayDenseAndAreNamed) {
  for (const float odd : {0.5f, -1.5f, 0.7505f}) {
    Weights weights = ternary_weights();
    weights.back() = odd;
    const Loaded loaded = load_ours(weights);
    EXPECT_FALSE(loaded.matrix.is_ternary());
    EXPECT_EQ(row(loaded.matrix, 0), row(weights, 0));
    ASSERT_EQ(loaded.notes.size(), 1u);
    EXPECT_NE(loaded.notes[0].find("int8 activations: 1 (blk.0.attn_q.weight)"), std::string::npos)
        << loaded.notes[0];
  }
}

TEST_F(SourceGguf, AFloatModelIsLeftAlone) {
  const Loaded loaded = load(ternary_weights(), kF16, "other.schema", false);
  EXPECT_FALSE(loaded.matrix.is_ternary());
  EXPECT_TRUE(loaded.notes.empty());
}

TEST_F(SourceGguf, ValuesThatAreNotFiniteAreRefused) {
  for (const float value : {kNan, kInfinity, -kInfinity}) {
    Weights weights = ternary_weights();
    weights[2] = 0.5f;  // what is dense already is searched to its end
    weights[17] = value;
    const std::string message = error_of<FormatError>([&] { load_ours(weights); });
    EXPECT_NE(message.find("'blk.0.attn_q.weight'"), std::string::npos) << message;
    EXPECT_NE(message.find("holds a NaN or infinity"), std::string::npos) << message;
  }
}

std::string i2s_bytes(float scale) {
  const std::vector<int8_t> codes(kRows * kPacked, 1);
  std::string bytes(static_cast<size_t>(i2s::size_bytes(kRows, kPacked)), '\0');
  i2s::pack(codes.data(), kRows, kPacked, scale, reinterpret_cast<uint8_t*>(bytes.data()));
  return bytes;
}

// Rows of one block, whose last two bytes are its f16 scale.
std::string tq_bytes(uint32_t type, uint16_t scale) {
  const std::vector<int8_t> codes(kRows * kPacked, 1);
  const bool is_tq1 = type == kTq1;
  std::string bytes(static_cast<size_t>(kRows * (is_tq1 ? 54 : 66)), '\0');
  auto* to = reinterpret_cast<uint8_t*>(bytes.data());
  if (is_tq1) {
    tq1_0::pack(codes.data(), kRows, kPacked, 1.0f, to);
  } else {
    tq2_0::pack(codes.data(), kRows, kPacked, 1.0f, to);
  }
  const size_t block = bytes.size() / kRows;
  for (size_t end = block; end <= bytes.size(); end += block) {
    std::memcpy(bytes.data() + end - 2, &scale, sizeof scale);
  }
  return bytes;
}

TEST_F(SourceGguf, ScalesOfI2s) {
  for (const float scale : {0.0f, 1e-40f, 0.75f, std::numeric_limits<float>::max()}) {
    const Loaded loaded = load_packed(i2s_bytes(scale), kI2s);
    EXPECT_EQ(loaded.matrix.scale(), scale);
    Weights values(kPacked);
    loaded.matrix.read_row(3, values.data());
    EXPECT_EQ(values, Weights(kPacked, scale));
  }
  for (const float scale : {kNan, kInfinity, -1.0f}) {
    const std::string message = error_of<FormatError>([&] { load_packed(i2s_bytes(scale), kI2s); });
    EXPECT_NE(message.find("scale is negative or not finite"), std::string::npos) << message;
  }
}

TEST_F(SourceGguf, ScalesOfTq) {
  constexpr uint16_t kZero = 0, kMinusZero = 0x8000, kDenormal = 1, kLargest = 0x7bff;
  for (const uint32_t type : {kTq1, kTq2}) {
    for (const uint16_t scale : {kZero, kMinusZero, kDenormal, kLargest}) {
      const Loaded loaded = load_packed(tq_bytes(type, scale), type);
      ASSERT_TRUE(loaded.matrix.is_ternary());
      EXPECT_EQ(loaded.matrix.scale(), half::f16_to_f32(scale));
    }
    for (const uint16_t scale : {uint16_t{0x7c00}, uint16_t{0xfc00}, uint16_t{0x7e00}}) {
      const std::string message =
          error_of<FormatError>([&] { load_packed(tq_bytes(type, scale), type); });
      EXPECT_NE(message.find("not finite"), std::string::npos) << message;
    }
  }
}

}  // namespace
}  // namespace wf::engine
