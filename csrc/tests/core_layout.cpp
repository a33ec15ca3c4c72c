// Byte layouts against slow formulas written from the format descriptions alone: each formula walks
// the weights of a block and says what they add to which byte. A round trip is no format test,
// since an encoder and a decoder can share a mistake.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "layout/hf_packed.h"
#include "layout/i2s.h"
#include "layout/iq2_bn.h"
#include "layout/lut.h"
#include "layout/q4_0.h"
#include "layout/q6_k.h"
#include "layout/t1.h"
#include "layout/t2.h"
#include "layout/tq1_0.h"
#include "layout/tq2_0.h"

namespace wf {
namespace {

using Bytes = std::vector<std::uint8_t>;
using Codes = std::vector<std::int8_t>;

constexpr float kScale = 0.25f;
const Bytes kScaleF16 = {0x00, 0x34};
const Bytes kScaleF32 = {0x00, 0x00, 0x80, 0x3e};

Bytes to_bytes(const std::vector<double>& sums, const Bytes& tail) {
  Bytes bytes;
  for (double sum : sums) bytes.push_back(static_cast<std::uint8_t>(sum));
  bytes.insert(bytes.end(), tail.begin(), tail.end());
  return bytes;
}

Bytes expected_i2s(const Codes& codes) {
  std::vector<double> sums(32);
  for (std::size_t i = 0; i < 128; ++i) sums[i % 32] += (codes[i] + 1) * std::pow(4, 3 - i / 32);
  Bytes tail = kScaleF32;
  tail.resize(32);
  return to_bytes(sums, tail);
}

Bytes expected_tq2_0(const Codes& codes) {
  std::vector<double> sums(64);
  for (std::size_t g = 0; g < 2; ++g) {
    for (std::size_t m = 0; m < 32; ++m) {
      for (std::size_t n = 0; n < 4; ++n) {
        sums[32 * g + m] += (codes[128 * g + m + 32 * n] + 1) * std::pow(2, 2 * n);
      }
    }
  }
  return to_bytes(sums, kScaleF16);
}

Bytes expected_tq1_0(const Codes& codes) {
  std::vector<double> values(52);
  const auto trit = [&](std::size_t byte, std::size_t weight, int power) {
    values[byte] += (codes[weight] + 1) * std::pow(3, power);
  };
  for (std::size_t m = 0; m < 32; ++m) {
    for (std::size_t n = 0; n < 5; ++n) trit(m, m + 32 * n, 4 - static_cast<int>(n));
  }
  for (std::size_t m = 0; m < 16; ++m) {
    for (std::size_t n = 0; n < 5; ++n) trit(32 + m, 160 + m + 16 * n, 4 - static_cast<int>(n));
  }
  for (std::size_t j = 0; j < 4; ++j) {
    for (std::size_t m = 0; m < 4; ++m) trit(48 + j, 240 + j + 4 * m, 4 - static_cast<int>(m));
  }
  for (double& v : values) v = std::ceil(v * 256.0 / 243.0);
  return to_bytes(values, kScaleF16);
}

Bytes expected_q4_0(const Codes& codes) {
  std::vector<double> sums(16);
  for (std::size_t i = 0; i < 32; ++i) sums[i % 16] += (codes[i] + 8) * (i < 16 ? 1 : 16);
  Bytes bytes = kScaleF16;
  const Bytes nibbles = to_bytes(sums, {});
  bytes.insert(bytes.end(), nibbles.begin(), nibbles.end());
  return bytes;
}

struct Format {
  const char* name;
  std::size_t block;
  std::function<Bytes(const Codes&)> expected;
  std::function<void(const Codes&, std::uint8_t*)> pack;
  std::function<bool(const Bytes&, Codes&, float&)> unpack;
};

std::function<bool(const Bytes&, Codes&, float&)> with_block_scale(
    bool (*unpack)(const std::uint8_t*, std::int64_t, std::int8_t*, BlockScale&)) {
  return [unpack](const Bytes& bytes, Codes& codes, float& scale) {
    BlockScale blocks;
    const bool ok =
        unpack(bytes.data(), static_cast<std::int64_t>(codes.size()), codes.data(), blocks);
    scale = blocks.value();
    return ok;
  };
}

std::vector<Format> formats() {
  const auto one_row = [](auto pack) {
    return [pack](const Codes& codes, std::uint8_t* to) {
      pack(codes.data(), 1, static_cast<std::int64_t>(codes.size()), kScale, to);
    };
  };
  return {
      {"i2s", 128, expected_i2s, one_row(i2s::pack),
       [](const Bytes& bytes, Codes& codes, float& scale) {
         scale = i2s::load_scale(bytes.data(), 1, static_cast<std::int64_t>(codes.size()));
         return i2s::unpack(bytes.data(), 0, static_cast<std::int64_t>(codes.size()), codes.data());
       }},
      {"tq1_0", 256, expected_tq1_0, one_row(tq1_0::pack), with_block_scale(tq1_0::unpack)},
      {"tq2_0", 256, expected_tq2_0, one_row(tq2_0::pack), with_block_scale(tq2_0::unpack)},
      {"q4_0", 32, expected_q4_0, one_row(q4_0::pack), with_block_scale(q4_0::unpack)},
  };
}

class BlockLayout : public testing::TestWithParam<Format> {
 protected:
  void expect_both_ways(const Codes& codes) {
    const Format& format = GetParam();
    const Bytes expected = format.expected(codes);
    Bytes packed(expected.size() + 8, 0xa5);
    format.pack(codes, packed.data());
    EXPECT_EQ(Bytes(packed.end() - 8, packed.end()), Bytes(8, 0xa5)) << "wrote too far";
    packed.resize(expected.size());
    EXPECT_EQ(packed, expected);

    Codes back(codes.size(), 99);
    float scale = 0;
    EXPECT_TRUE(format.unpack(expected, back, scale));
    EXPECT_EQ(back, codes);
    EXPECT_EQ(scale, kScale);
  }
};

TEST_P(BlockLayout, OneHotAtEveryPosition) {
  for (std::size_t at = 0; at < GetParam().block; ++at) {
    for (int value : {1, -1}) {
      SCOPED_TRACE(testing::Message() << value << " at " << at);
      Codes codes(GetParam().block, 0);
      codes[at] = static_cast<std::int8_t>(value);
      expect_both_ways(codes);
    }
  }
}

TEST_P(BlockLayout, RandomBlocks) {
  std::mt19937 rng(11);
  for (int repeat = 0; repeat < 50; ++repeat) {
    Codes codes(GetParam().block);
    for (auto& code : codes) code = static_cast<std::int8_t>(static_cast<int>(rng() % 3) - 1);
    expect_both_ways(codes);
  }
}

INSTANTIATE_TEST_SUITE_P(Format, BlockLayout, testing::ValuesIn(formats()),
                         [](const auto& info) { return std::string(info.param.name); });

// IQ2_BN is only read: bytes by the formula, in the second block of a row.
TEST(Iq2Bn, OneHotAtEveryPosition) {
  for (std::size_t at = 0; at < 64; ++at) {
    for (int value : {1, -1}) {
      SCOPED_TRACE(testing::Message() << value << " at " << at);
      Codes codes(128, 0);
      codes[64 + at] = static_cast<std::int8_t>(value);
      std::vector<double> sums(32);
      for (std::size_t i = 0; i < 128; ++i) {
        sums[i / 64 * 16 + i % 16] += (codes[i] + 1) * std::pow(4, i % 64 / 16);
      }
      Bytes row = kScaleF32;
      const Bytes packed = to_bytes(sums, {});
      row.insert(row.end(), packed.begin(), packed.end());
      Codes back(128, 99);
      float scale = 0;
      EXPECT_TRUE(iq2_bn::unpack_row(row.data(), 128, back.data(), scale));
      EXPECT_EQ(back, codes);
      EXPECT_EQ(scale, kScale);
      row[4 + 16 + at % 16] |= 3 << at / 16 * 2;
      EXPECT_FALSE(iq2_bn::unpack_row(row.data(), 128, back.data(), scale));
    }
  }
}

TEST(Iq2Bn, ARowOfScaleZeroIsZeros) {
  Bytes row(4 + 16, 0xaa);  // ik_llama.cpp compares weights with half of the largest, which is 0
  for (int i = 0; i < 4; ++i) row[i] = 0;
  Codes back(64, 99);
  float scale = 1;
  EXPECT_TRUE(iq2_bn::unpack_row(row.data(), 64, back.data(), scale));
  EXPECT_EQ(back, Codes(64, 0));
  EXPECT_EQ(scale, 0.0f);
}

Codes random_codes(std::int64_t count, unsigned seed) {
  std::mt19937 rng(seed);
  Codes codes(static_cast<std::size_t>(count));
  for (auto& code : codes) code = static_cast<std::int8_t>(static_cast<int>(rng() % 3) - 1);
  return codes;
}

// position() of every layout, which documents where an element lives, points at what pack() wrote.
TEST(Positions, PointAtThePackedElement) {
  const std::int64_t n = 6, k = 512;
  const Codes codes = random_codes(n * k, 3);
  Bytes i2s_bytes(static_cast<std::size_t>(i2s::size_bytes(n, k)));
  Bytes tq1_bytes(static_cast<std::size_t>(tq1_0::size_bytes(n, k)));
  Bytes tq2_bytes(static_cast<std::size_t>(tq2_0::size_bytes(n, k)));
  Bytes q4_bytes(static_cast<std::size_t>(q4_0::size_bytes(n, k)));
  Bytes hf_bytes(static_cast<std::size_t>(hf_packed::size_bytes(n, k)));
  Bytes t2_bytes(static_cast<std::size_t>(t2::size_bytes(n, k)));
  i2s::pack(codes.data(), n, k, kScale, i2s_bytes.data());
  tq1_0::pack(codes.data(), n, k, kScale, tq1_bytes.data());
  tq2_0::pack(codes.data(), n, k, kScale, tq2_bytes.data());
  q4_0::pack(codes.data(), n, k, kScale, q4_bytes.data());
  hf_packed::pack(codes.data(), n, k, hf_bytes.data());
  t2::pack(codes.data(), n, k, t2_bytes.data());
  const auto field = [](const Bytes& bytes, auto at, int mask) {
    return bytes[static_cast<std::size_t>(at.byte)] >> at.shift & mask;
  };
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t c = 0; c < k; ++c) {
      const int code = codes[static_cast<std::size_t>(r * k + c)];
      ASSERT_EQ(field(i2s_bytes, i2s::position(r, c, k), 3), code + 1);
      ASSERT_EQ(field(tq2_bytes, tq2_0::position(r, c, k), 3), code + 1);
      ASSERT_EQ(field(q4_bytes, q4_0::position(r, c, k), 15), code + 8);
      ASSERT_EQ(field(hf_bytes, hf_packed::position(r, c, n, k), 3), code + 1);
      ASSERT_EQ(field(t2_bytes, t2::position(r, c, k), 3), code + 1);
      const tq1_0::Position trit = tq1_0::position(r, c, k);
      std::int8_t trits[5];
      tq1_0::unpack_byte(tq1_bytes[static_cast<std::size_t>(trit.byte)], 1, 5, trits);
      ASSERT_EQ(trits[trit.trit], code);
    }
  }
}

TEST(HfPacked, RowsOfAnyCountInFourQuarters) {
  for (std::int64_t n : {1, 2, 3, 4, 5, 7, 9}) {
    const std::int64_t k = 3, quarter = (n + 3) / 4;
    const Codes codes = random_codes(n * k, static_cast<unsigned>(n));
    std::vector<double> sums(static_cast<std::size_t>(quarter * k));
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t c = 0; c < k; ++c) {
        sums[static_cast<std::size_t>(r % quarter * k + c)] +=
            (codes[static_cast<std::size_t>(r * k + c)] + 1) *
            std::pow(4, static_cast<double>(r / quarter));
      }
    }
    Bytes packed(static_cast<std::size_t>(hf_packed::size_bytes(n, k)));
    hf_packed::pack(codes.data(), n, k, packed.data());
    EXPECT_EQ(packed, to_bytes(sums, {})) << n;
    for (std::int64_t r = 0; r < n; ++r) {
      Codes row(static_cast<std::size_t>(k));
      EXPECT_TRUE(hf_packed::unpack_row(packed.data(), r, n, k, row.data()));
      EXPECT_EQ(row, Codes(codes.begin() + r * k, codes.begin() + (r + 1) * k));
    }
  }
}

// The layouts that kernels run on: rows and columns of a block, and their functions.
struct KernelLayout {
  const char* name;
  std::int64_t rows, columns;
  std::int64_t (*size_bytes)(std::int64_t, std::int64_t);
  void (*pack)(const std::int8_t*, std::int64_t, std::int64_t, std::uint8_t*);
  bool (*unpack_row)(const std::uint8_t*, std::int64_t, std::int64_t, std::int8_t*);
};

constexpr KernelLayout kKernelLayouts[] = {
    {"t2", t2::kRows, t2::kColumns, t2::size_bytes, t2::pack, t2::unpack_row},
    {"t1", t1::kRows, t1::kColumns, t1::size_bytes, t1::pack, t1::unpack_row},
    {"lut", lut::kRows, lut::kColumns, lut::size_bytes, lut::pack, lut::unpack_row},
};

TEST(KernelLayouts, RowsComeBackAndPaddingIsCodeZero) {
  for (const KernelLayout& layout : kKernelLayouts) {
    for (std::int64_t n : {1, 15, 16, 17, 31, 32, 33}) {
      for (std::int64_t k : {1, 3, 4, 5, 15, 16, 17, 19, 20, 21, 100}) {
        SCOPED_TRACE(testing::Message() << layout.name << " " << n << " x " << k);
        const Codes codes = random_codes(n * k, 7);
        Bytes packed(static_cast<std::size_t>(layout.size_bytes(n, k)), 0xff);
        layout.pack(codes.data(), n, k, packed.data());
        const std::int64_t all_rows = (n + layout.rows - 1) / layout.rows * layout.rows;
        const std::int64_t all_columns = (k + layout.columns - 1) / layout.columns * layout.columns;
        ASSERT_EQ(layout.size_bytes(all_rows, all_columns), layout.size_bytes(n, k));
        for (std::int64_t r = 0; r < all_rows; ++r) {
          Codes expected(static_cast<std::size_t>(all_columns), 0);
          if (r < n) std::copy_n(codes.begin() + r * k, k, expected.begin());
          Codes row(expected.size(), 9);
          ASSERT_TRUE(layout.unpack_row(packed.data(), r, all_columns, row.data()));
          ASSERT_EQ(row, expected) << "row " << r;
        }
      }
    }
  }
}

// Every byte is either one that codes give, and then gives them back, or is refused.
TEST(KernelLayouts, BytesThatNoCodesGiveAreRefused) {
  const int valid[] = {81, 243, 81};  // 3^4 with four codes to a byte, 3^5 with five
  for (int i = 0; i < 3; ++i) {
    const KernelLayout& layout = kKernelLayouts[i];
    const std::int64_t k = layout.columns;
    int accepted = 0;
    for (int byte = 0; byte < 256; ++byte) {
      Bytes packed(static_cast<std::size_t>(layout.size_bytes(1, k)), static_cast<uint8_t>(byte));
      Codes row(static_cast<std::size_t>(k));
      if (!layout.unpack_row(packed.data(), 0, k, row.data())) continue;
      ++accepted;
      Bytes again(packed.size());
      layout.pack(row.data(), 1, k, again.data());
      ASSERT_EQ(again[0], byte) << layout.name;
    }
    EXPECT_EQ(accepted, valid[i]) << layout.name;
  }
}

TEST(BadBytes, AreReported) {
  Codes codes(256);
  Bytes i2s_bytes(64 + 32, 0x55);
  EXPECT_TRUE(i2s::unpack(i2s_bytes.data(), 0, 256, codes.data()));
  i2s_bytes[40] = 0xc0;
  EXPECT_FALSE(i2s::unpack(i2s_bytes.data(), 0, 256, codes.data()));

  Codes ones(512, 1);
  const auto error_after = [&](auto pack, auto unpack, std::size_t at, std::uint8_t byte,
                               std::int64_t size) {
    Bytes bytes(static_cast<std::size_t>(size));
    pack(ones.data(), 1, 512, kScale, bytes.data());
    bytes[at] = byte;
    Codes back(512);
    BlockScale scale;
    const bool ok = unpack(bytes.data(), 512, back.data(), scale);
    EXPECT_EQ(ok, scale.error() == UnpackError::none);
    return scale.error();
  };
  const auto tq2 = [&](std::size_t at, std::uint8_t byte) {
    return error_after(tq2_0::pack, tq2_0::unpack, at, byte, tq2_0::size_bytes(1, 512));
  };
  EXPECT_EQ(tq2(64, 0x00), UnpackError::none);
  EXPECT_EQ(tq2(3, 0xff), UnpackError::bad_code);
  EXPECT_EQ(tq2(65, 0x7c), UnpackError::bad_scale);  // infinity
  EXPECT_EQ(tq2(65, 0x7f), UnpackError::bad_scale);  // NaN
  EXPECT_EQ(tq2(65, 0xb4), UnpackError::bad_scale);  // negative
  EXPECT_EQ(tq2(131, 0x38), UnpackError::scales_differ);
  EXPECT_EQ(error_after(tq1_0::pack, tq1_0::unpack, 107, 0x38, tq1_0::size_bytes(1, 512)),
            UnpackError::scales_differ);
  EXPECT_EQ(error_after(q4_0::pack, q4_0::unpack, 5, 0x0f, q4_0::size_bytes(1, 512)),
            UnpackError::bad_code);
}

// One weight differs from the others at a time, and one scale.
TEST(Q6K, WeightsAreWhereTheFormatHasThem) {
  for (std::size_t i = 0; i < 256; ++i) {
    Bytes block(210);
    const std::size_t half = i / 128, within = i % 128;
    const int code = static_cast<int>(i * 37 % 64);
    block[64 * half + within % 64] =
        static_cast<std::uint8_t>((code & 15) << (within < 64 ? 0 : 4));
    block[128 + 32 * half + within % 32] =
        static_cast<std::uint8_t>((code >> 4) << (2 * (within / 32)));
    block[192 + i / 16] = 0xfd;  // -3
    block[209] = 0x34;           // 0.25
    for (std::size_t first = 0; first < 256; first += 32) {
      float weights[32];
      q6_k::weights(block.data(), static_cast<std::int64_t>(first), weights);
      for (std::size_t j = 0; j < 32; ++j) {
        const bool is_scaled = (first + j) / 16 == i / 16;
        const int other = is_scaled ? -32 : 0;
        EXPECT_EQ(weights[j], -0.75f * static_cast<float>(first + j == i ? code - 32 : other));
      }
    }
  }
}

TEST(Sizes, AreCheckedIn64Bits) {
  const std::int64_t huge = INT64_MAX / 4;
  EXPECT_EQ(i2s::size_bytes(huge, 128), -1);
  EXPECT_EQ(i2s::size_bytes(1, 127), -1);
  EXPECT_EQ(i2s::size_bytes(3, 128), 96 + 32);
  EXPECT_EQ(tq2_0::size_bytes(huge, 256), -1);
  EXPECT_EQ(tq2_0::size_bytes(2, 576), -1);
  EXPECT_EQ(tq1_0::size_bytes(2, 512), 216);
  EXPECT_EQ(q4_0::size_bytes(1, 576), 324);
  EXPECT_EQ(hf_packed::size_bytes(huge, huge), -1);
  EXPECT_EQ(t2::size_bytes(INT64_MAX, 1), -1);
  EXPECT_EQ(t2::size_bytes(huge, 64), -1);
  EXPECT_EQ(t2::size_bytes(17, 17), 2 * 2 * 64);
  EXPECT_EQ(t1::size_bytes(INT64_MAX, 1), -1);
  EXPECT_EQ(t1::size_bytes(huge, 64), -1);
  EXPECT_EQ(t1::size_bytes(17, 21), 2 * 2 * 64);
  EXPECT_EQ(lut::size_bytes(INT64_MAX, 1), -1);
  EXPECT_EQ(lut::size_bytes(huge, 64), -1);
  EXPECT_EQ(lut::size_bytes(33, 5), 2 * 2 * 32);
  // An index beyond 2^31 elements stays exact.
  EXPECT_EQ(t2::position(100000, 100000, 200000).byte, (6250LL * 12500 + 6250) * 64);
}

}  // namespace
}  // namespace wf
