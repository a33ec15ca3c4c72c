// What this machine's memory can do at most: read and copy bandwidth. bench/ceilings.py builds this
// file and calls it through ctypes.
//
// Every width of vector has a function of its own with a target attribute, so one binary runs on
// any x86-64; elsewhere memory is measured by 8-byte loops, which compilers vectorise.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using Bytes = std::uint8_t*;

// Results go here, so that no loop is dead.
std::atomic<std::uint64_t> sink;

double now() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(time).count();
}

// Seconds from the first start of body(thread) to its last end; all threads start together.
template <class Body>
double timed(int threads, const Body& body) {
  const auto count = static_cast<std::size_t>(threads);
  std::vector<double> begin(count), end(count);
  std::atomic<int> missing{threads};
  const auto run = [&](std::size_t i) {
    --missing;
    while (missing > 0) std::this_thread::yield();
    begin[i] = now();
    body(static_cast<int>(i));
    end[i] = now();
  };
  std::vector<std::thread> others;
  for (std::size_t i = 1; i < count; ++i) others.emplace_back(run, i);
  run(0);
  for (std::thread& other : others) other.join();
  return *std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end());
}

// Bytes one step of a loop takes from each stream: two cache lines.
constexpr std::size_t kStep = 128;

// `Streams` equal parts of the memory, walked side by side: more of them keep more prefetchers
// busy.
template <int Streams>
std::uint64_t read_plain(const std::uint8_t* from, std::size_t bytes) {
  const std::size_t part = bytes / Streams;
  std::uint64_t sum[16] = {};
  for (std::size_t i = 0; i < part; i += kStep) {
    for (int s = 0; s < Streams; ++s) {
      std::uint64_t words[16];
      std::memcpy(words, from + static_cast<std::size_t>(s) * part + i, kStep);
      for (int v = 0; v < 16; ++v) sum[v] ^= words[v];
    }
  }
  for (int v = 1; v < 16; ++v) sum[0] ^= sum[v];
  return sum[0];
}

void copy_plain(Bytes to, const std::uint8_t* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
}

#if defined(__x86_64__)

template <int Streams>
__attribute__((target("avx2"))) std::uint64_t read_avx2(const std::uint8_t* from,
                                                        std::size_t bytes) {
  const std::size_t part = bytes / Streams;
  __m256i sum[4] = {};
  for (std::size_t i = 0; i < part; i += kStep) {
#pragma GCC unroll 4
    for (int s = 0; s < Streams; ++s) {
      const auto* at =
          reinterpret_cast<const __m256i*>(from + static_cast<std::size_t>(s) * part + i);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sum[v] = _mm256_xor_si256(sum[v], _mm256_load_si256(at + v));
    }
  }
  for (int v = 1; v < 4; ++v) sum[0] = _mm256_xor_si256(sum[0], sum[v]);
  return static_cast<std::uint64_t>(_mm256_extract_epi64(sum[0], 0));
}

template <int Streams>
__attribute__((target("avx512f"))) std::uint64_t read_avx512(const std::uint8_t* from,
                                                             std::size_t bytes) {
  const std::size_t part = bytes / Streams;
  __m512i sum[2] = {};
  for (std::size_t i = 0; i < part; i += kStep) {
#pragma GCC unroll 4
    for (int s = 0; s < Streams; ++s) {
      const auto* at =
          reinterpret_cast<const __m512i*>(from + static_cast<std::size_t>(s) * part + i);
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) sum[v] = _mm512_xor_si512(sum[v], _mm512_load_si512(at + v));
    }
  }
  alignas(64) std::uint64_t words[8];
  _mm512_store_si512(words, _mm512_xor_si512(sum[0], sum[1]));
  return words[0];
}

// Stores that pass the caches by: the lines written are not read first.
__attribute__((target("avx2"))) void copy_streaming(Bytes to, const std::uint8_t* from,
                                                    std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += kStep) {
    for (std::size_t v = 0; v < kStep; v += 32) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i + v),
                          _mm256_load_si256(reinterpret_cast<const __m256i*>(from + i + v)));
    }
  }
  _mm_sfence();
}

__attribute__((target("avx2"))) void copy_avx2(Bytes to, const std::uint8_t* from,
                                               std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += kStep) {
    for (std::size_t v = 0; v < kStep; v += 32) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(to + i + v),
                         _mm256_load_si256(reinterpret_cast<const __m256i*>(from + i + v)));
    }
  }
}

bool has_avx2() { return __builtin_cpu_supports("avx2"); }
bool has_avx512() { return __builtin_cpu_supports("avx512f"); }

#endif

template <int Streams>
std::uint64_t read(const std::uint8_t* from, std::size_t bytes) {
#if defined(__x86_64__)
  if (has_avx512()) return read_avx512<Streams>(from, bytes);
  if (has_avx2()) return read_avx2<Streams>(from, bytes);
#endif
  return read_plain<Streams>(from, bytes);
}

}  // namespace

// Memory that is really there, in huge pages or surely without; null if there is none.
EXPORT void* wf_map(std::size_t bytes, int huge) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
#if defined(MADV_HUGEPAGE)
  madvise(memory, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#else
  static_cast<void>(huge);
#endif
  std::memset(memory, 1, bytes);
  return memory;
}

// Seconds to read all of `memory` with `streams` (1, 2 or 4) in each thread. `bytes` is a multiple
// of threads * 4 * kStep.
EXPORT double wf_read_s(const std::uint8_t* memory, std::size_t bytes, int threads, int streams) {
  const std::size_t share = bytes / static_cast<std::size_t>(threads);
  return timed(threads, [=](int thread) {
    const std::uint8_t* from = memory + static_cast<std::size_t>(thread) * share;
    sink = streams == 4   ? read<4>(from, share)
           : streams == 2 ? read<2>(from, share)
                          : read<1>(from, share);
  });
}

// Seconds to copy `bytes`; kind 0 is memcpy, 1 vector stores, 2 vector stores past the caches.
EXPORT double wf_copy_s(Bytes to, const std::uint8_t* from, std::size_t bytes, int threads,
                        int kind) {
  auto copy = copy_plain;
#if defined(__x86_64__)
  if (kind > 0 && has_avx2()) copy = kind == 1 ? copy_avx2 : copy_streaming;
#else
  static_cast<void>(kind);
#endif
  const std::size_t share = bytes / static_cast<std::size_t>(threads);
  return timed(threads, [=](int thread) {
    const std::size_t first = static_cast<std::size_t>(thread) * share;
    copy(to + first, from + first, share);
  });
}
