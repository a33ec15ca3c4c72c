// The emulator finds what it is there to find: wrong answers without a barrier, and deadlocks.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "gpu.h"

namespace wf::test {
namespace {

// Each thread reads what its neighbour in the block wrote.
template <bool kBarrier>
__global__ void rotate(unsigned* out) {
  __shared__ unsigned written[64];
  written[threadIdx.x] = ~0u;
  __syncthreads();
  written[threadIdx.x] = threadIdx.x;
  if (kBarrier) __syncthreads();
  out[threadIdx.x] = written[(threadIdx.x + 1) % blockDim.x];
}

template <bool kBarrier>
int wrong_values() {
  int wrong = 0;
  for (gpu::seed = 0; gpu::seed < 5; ++gpu::seed) {
    std::vector<unsigned> out(64);
    WF_LAUNCH(rotate<kBarrier>, 1, 64, nullptr, out.data());
    EXPECT_EQ(gpu::launch_error(), nullptr);
    for (unsigned i = 0; i < 64; ++i) wrong += out[i] != (i + 1) % 64;
  }
  return wrong;
}

TEST(CudaEmulator, AMissingBarrierShows) {
  EXPECT_EQ(wrong_values<true>(), 0);
  EXPECT_GT(wrong_values<false>(), 0);
}

__global__ void warp_maxima(unsigned* out) {
  for (unsigned round = 0; round < 4; ++round) {
    const unsigned value = (threadIdx.x * 7 + round * 5) % 32 + threadIdx.x / 32 * 100;
    out[round * blockDim.x + threadIdx.x] = __reduce_max_sync(0xffffffffu, value);
  }
}

TEST(CudaEmulator, WarpsReduceOnTheirOwn) {
  std::vector<unsigned> out(4 * 96);
  WF_LAUNCH(warp_maxima, 1, 96, nullptr, out.data());
  for (unsigned i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], i % 96 / 32 * 100 + 31);
}

__global__ void half_a_block_waits() {
  if (threadIdx.x < 32) __syncthreads();
}

__global__ void nothing() {}

TEST(CudaEmulator, BadLaunchesAreErrors) {
  WF_LAUNCH(half_a_block_waits, 1, 64, nullptr);
  EXPECT_EQ(std::string(gpu::launch_error()).rfind("deadlock", 0), 0u);
  for (const unsigned threads : {0u, 33u, 2048u}) {
    WF_LAUNCH(nothing, 1, threads, nullptr);
    EXPECT_NE(gpu::launch_error(), nullptr) << threads;
  }
  WF_LAUNCH(nothing, 0, 32, nullptr);
  EXPECT_NE(gpu::launch_error(), nullptr);
  EXPECT_EQ(gpu::launch_error(), nullptr) << "reported once";
}

}  // namespace
}  // namespace wf::test
