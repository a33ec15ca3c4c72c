#include "bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "buffer.h"
#include "thread_pool.h"

namespace wf::engine {

namespace {

constexpr int kPasses = 5;
constexpr size_t kStreams = 4;
constexpr size_t kWords = 8;  // of a stream at a time: a cache line

uint64_t read_streams(const uint64_t* words, size_t count) {
  const size_t length = count / kStreams / kWords * kWords;
  uint64_t sums[kStreams][kWords] = {};
  for (size_t i = 0; i < length; i += kWords) {
    for (size_t s = 0; s < kStreams; ++s) {
      for (size_t w = 0; w < kWords; ++w) sums[s][w] ^= words[s * length + i + w];
    }
  }
  uint64_t all = 0;
  for (const auto& stream : sums) {
    for (const uint64_t sum : stream) all ^= sum;
  }
  return all;
}

}  // namespace

double read_gbps(int threads, size_t bytes) {
  const Buffer memory(bytes);
  std::memset(memory.as<uint8_t>(), 1, bytes);  // pages that were never written are all one page
  const auto* words = memory.as<uint64_t>();
  const size_t share = bytes / sizeof(uint64_t) / static_cast<size_t>(threads);
  ThreadPool pool(threads);
  std::atomic<uint64_t> result{0};  // so that no loop is dead
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](int thread) {
      result ^= read_streams(words + static_cast<size_t>(thread) * share, share);
    });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(bytes) / took.count() * 1e-9);
  }
  return best;
}

}  // namespace wf::engine
