// A fuzz target: a function on any bytes, and inputs to start from. libFuzzer calls the function;
// so does replay.cpp, which needs no clang and runs in the normal tests.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace wf::fuzz {

std::vector<std::string> seeds();

inline void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz target: %s\n", what.c_str());
  std::abort();
}

// Numbers drawn from the input. Behind its end come pseudo-random ones, so that short inputs are
// whole problems too.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size)
      : at_(data), end_(data + size), rng_(static_cast<unsigned>(size)) {
    for (std::size_t i = 0; i < size && i < 8; ++i) rng_.seed(rng_() ^ data[i]);
  }

  std::uint8_t byte() { return at_ < end_ ? *at_++ : static_cast<std::uint8_t>(rng_() >> 24); }
  std::uint32_t word() {
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value = value << 8 | byte();
    return value;
  }
  // From `least` to `most`.
  std::int64_t integer(std::int64_t least, std::int64_t most) {
    return least + word() % (most - least + 1);
  }

 private:
  const std::uint8_t* at_;
  const std::uint8_t* end_;
  std::mt19937 rng_;
};

}  // namespace wf::fuzz
