// Any bytes given to the reader of any byte layout: what it accepts are ternary codes, and packed
// again they are read as the same ones.
#include <algorithm>

#include "layout/hf_packed.h"
#include "layout/i2s.h"
#include "layout/lut.h"
#include "layout/q4_0.h"
#include "layout/t1.h"
#include "layout/t2.h"
#include "layout/tq1_0.h"
#include "layout/tq2_0.h"
#include "target.h"

namespace wf::fuzz {
namespace {

using Codes = std::vector<std::int8_t>;

struct Format {
  const char* name;
  std::int64_t block;  // columns are a multiple of this
  std::int64_t (*size_bytes)(std::int64_t n, std::int64_t k);
  void (*pack)(const std::int8_t* codes, std::int64_t n, std::int64_t k, std::uint8_t* packed);
  bool (*unpack)(const std::uint8_t* packed, std::int64_t n, std::int64_t k, std::int8_t* codes);
};

template <auto unpack_row>
bool by_rows(const std::uint8_t* packed, std::int64_t n, std::int64_t k, std::int8_t* codes) {
  bool is_valid = true;
  for (std::int64_t r = 0; r < n; ++r) is_valid &= unpack_row(packed, r, k, codes + r * k);
  return is_valid;
}

bool hf_rows(const std::uint8_t* packed, std::int64_t n, std::int64_t k, std::int8_t* codes) {
  bool is_valid = true;
  for (std::int64_t r = 0; r < n; ++r) {
    is_valid &= hf_packed::unpack_row(packed, r, n, k, codes + r * k);
  }
  return is_valid;
}

template <auto unpack>
bool in_blocks(const std::uint8_t* packed, std::int64_t n, std::int64_t k, std::int8_t* codes) {
  BlockScale scale;
  return unpack(packed, n * k, codes, scale);
}

template <auto pack>
void with_scale(const std::int8_t* codes, std::int64_t n, std::int64_t k, std::uint8_t* packed) {
  pack(codes, n, k, 0.5f, packed);
}

bool i2s_stream(const std::uint8_t* packed, std::int64_t n, std::int64_t k, std::int8_t* codes) {
  return i2s::unpack(packed, 0, n * k, codes);
}

constexpr Format kFormats[] = {
    {"t2", 1, t2::size_bytes, t2::pack, by_rows<t2::unpack_row>},
    {"t1", 1, t1::size_bytes, t1::pack, by_rows<t1::unpack_row>},
    {"lut", 1, lut::size_bytes, lut::pack, by_rows<lut::unpack_row>},
    {"hf", 1, hf_packed::size_bytes, hf_packed::pack, hf_rows},
    {"i2s", 128, i2s::size_bytes, with_scale<i2s::pack>, i2s_stream},
    {"tq1_0", 256, tq1_0::size_bytes, with_scale<tq1_0::pack>, in_blocks<tq1_0::unpack>},
    {"tq2_0", 256, tq2_0::size_bytes, with_scale<tq2_0::pack>, in_blocks<tq2_0::unpack>},
    {"q4_0", 32, q4_0::size_bytes, with_scale<q4_0::pack>, in_blocks<q4_0::unpack>},
};

void check(Input& in, const Format& format) {
  const std::int64_t n = in.integer(1, 40);
  const std::int64_t k = format.block * in.integer(1, format.block > 1 ? 2 : 90);
  const auto bytes = static_cast<std::size_t>(format.size_bytes(n, k));
  std::vector<std::uint8_t> packed(bytes);
  Codes codes(static_cast<std::size_t>(n * k));
  // Bytes of codes with a few of them changed; or anything.
  if (in.byte() % 4 != 0) {
    for (std::int8_t& code : codes) code = static_cast<std::int8_t>(in.byte() % 3 - 1);
    const Codes written = codes;
    format.pack(codes.data(), n, k, packed.data());
    require(format.unpack(packed.data(), n, k, codes.data()) && codes == written,
            std::string(format.name) + ": other codes than were packed");
    for (int left = in.byte() % 4; left > 0; --left) packed[in.word() % bytes] = in.byte();
  } else {
    for (std::uint8_t& byte : packed) byte = in.byte();
  }
  if (!format.unpack(packed.data(), n, k, codes.data())) return;
  require(std::all_of(codes.begin(), codes.end(), [](int code) { return code >= -1 && code <= 1; }),
          std::string(format.name) + ": accepted bytes that are no ternary codes");
  std::vector<std::uint8_t> again(bytes);
  Codes codes_again(codes.size());
  format.pack(codes.data(), n, k, again.data());
  require(format.unpack(again.data(), n, k, codes_again.data()) && codes_again == codes,
          std::string(format.name) + ": other codes after a round trip");
}

}  // namespace

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  for (int i = 0; i < 32; ++i) all.push_back({static_cast<char>(i), static_cast<char>(i / 8)});
  return all;
}

}  // namespace wf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  wf::fuzz::Input in(data, size);
  wf::fuzz::check(in, wf::fuzz::kFormats[in.byte() % std::size(wf::fuzz::kFormats)]);
  return 0;
}
