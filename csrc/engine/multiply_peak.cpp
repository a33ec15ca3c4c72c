#include "multiply_peak.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <vector>

#include "thread_pool.h"

namespace wf::engine {

namespace {

constexpr int kPasses = 3;
constexpr int64_t kRounds = 400'000;
// Accumulators of a loop: more than latency times instructions per cycle.
constexpr int kSums = 12;

struct Loop {
  const char* isa;
  const char* instruction;
  int products;  // of one instruction
  void (*run)(int64_t rounds);
};

// In assembly, because compilers either spill sums or notice that all products are equal. What the
// registers hold does not matter, and integer products take the same time for any values.
#define ALL_SUMS(one)                                                                       \
  one("0") one("1") one("2") one("3") one("4") one("5") one("6") one("7") one("8") one("9") \
      one("10") one("11")

#if defined(__x86_64__)

#define USED_REGISTERS                                                                     \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14"

#define MADDUBS(sum)                         \
  "vpmaddubsw %%ymm13, %%ymm12, %%ymm14\n\t" \
  "vpaddw %%ymm14, %%ymm" sum ", %%ymm" sum "\n\t"
#define DPBUSD_YMM(sum) "%{vex%} vpdpbusd %%ymm13, %%ymm12, %%ymm" sum "\n\t"
#define DPBUSD_ZMM(sum) "vpdpbusd %%zmm13, %%zmm12, %%zmm" sum "\n\t"

void maddubs(int64_t rounds) {
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile(ALL_SUMS(MADDUBS)::: USED_REGISTERS);
  }
  asm volatile("vzeroupper" ::: USED_REGISTERS);
}

void dpbusd_ymm(int64_t rounds) {
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile(ALL_SUMS(DPBUSD_YMM)::: USED_REGISTERS);
  }
  asm volatile("vzeroupper" ::: USED_REGISTERS);
}

void dpbusd_zmm(int64_t rounds) {
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile(ALL_SUMS(DPBUSD_ZMM)::: USED_REGISTERS);
  }
  asm volatile("vzeroupper" ::: USED_REGISTERS);
}

constexpr Loop kLoops[] = {
    {"avx512vbmi", "avx512_vnni", 64, dpbusd_zmm},
    {"avx512vnni", "avx512_vnni", 64, dpbusd_zmm},
    {"avxvnni", "avx_vnni", 32, dpbusd_ymm},
    {"avx2", "avx2_maddubs", 32, maddubs},
};

#elif defined(__aarch64__)

#define USED_REGISTERS \
  "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13"

// "sdot vSUM.4s, v12.16b, v13.16b" and smmla of the same as numbers: assemblers differ in how a
// function asks for an extension.
#define SDOT(sum) ".inst 0x4e8d9580 + " sum "\n\t"
#define SMMLA(sum) ".inst 0x4e8da580 + " sum "\n\t"

void sdot(int64_t rounds) {
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile(ALL_SUMS(SDOT)::: USED_REGISTERS);
  }
}

void smmla(int64_t rounds) {
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile(ALL_SUMS(SMMLA)::: USED_REGISTERS);
  }
}

constexpr Loop kLoops[] = {
    {"neon_i8mm", "smmla", 32, smmla},
    {"neon_dotprod", "sdot", 16, sdot},
};

#else

constexpr Loop kLoops[] = {{"", "", 0, nullptr}};

#endif

// Seconds from the first start of the loop to its last end.
double timed(ThreadPool& pool, const Loop& loop) {
  using Time = std::chrono::steady_clock;
  std::vector<Time::time_point> begin(static_cast<size_t>(pool.size())), end(begin);
  pool.run([&](int thread) {
    const auto i = static_cast<size_t>(thread);
    pool.barrier();
    begin[i] = Time::now();
    loop.run(kRounds);
    end[i] = Time::now();
  });
  return std::chrono::duration<double>(*std::max_element(end.begin(), end.end()) -
                                       *std::min_element(begin.begin(), begin.end()))
      .count();
}

}  // namespace

MultiplyPeak multiply_peak(const std::string& isa, int threads) {
  const auto* loop = std::find_if(std::begin(kLoops), std::end(kLoops),
                                  [&](const Loop& entry) { return entry.isa == isa; });
  if (loop == std::end(kLoops) || loop->run == nullptr) return {};
  ThreadPool pool(threads);
  double seconds = timed(pool, *loop);
  for (int pass = 1; pass < kPasses; ++pass) seconds = std::min(seconds, timed(pool, *loop));
  const double products = static_cast<double>(kRounds) * kSums * loop->products * threads;
  return {loop->instruction, products / seconds * 1e-9};
}

}  // namespace wf::engine
