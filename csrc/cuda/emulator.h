// Enough of CUDA on the host to test kernels where there is no GPU.
//
// Every thread of a block is a fiber, and blocks run one after the other. A fiber gives way only
// where threads meet (barriers, warp collectives), and of those that can go on the first in an
// order drawn from `seed` does: leading threads run as far ahead as they are let, so a missing
// barrier gives wrong values under some seed. A meeting that not all threads reach is an error.
// One-dimensional grids only; it knows nothing of memory order or speed.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "layout/half.h"

#define __global__
#define __device__
#define __shared__ static  // one block runs at a time
#define WF_LAUNCH(kernel, grid, block, stream, ...) \
  wf::gpu::launch(kernel, grid, block, stream __VA_OPT__(, ) __VA_ARGS__)

namespace wf::gpu {

struct Index {
  unsigned x;
};

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;

inline std::uint32_t seed = 0;
inline const char* error = nullptr;

inline const char* launch_error() noexcept { return std::exchange(error, nullptr); }

inline float f16_to_f32(std::uint16_t bits) { return half::f16_to_f32(bits); }

}  // namespace wf::gpu

inline wf::gpu::Index threadIdx, blockIdx, blockDim, gridDim;

namespace wf::gpu {

// Where `size` threads wait for each other, again and again: `round` counts the times they met.
struct Meeting {
  unsigned size = 0, arrived = 0, round = 0;
};

struct Warp {
  Meeting meeting{kWarp};
  // What each lane brought to the last two rounds: a fast lane may post anew before a slow one has
  // read, but never two rounds ahead.
  std::array<std::array<unsigned, kWarp>, 2> posted{};
};

class Block {
 public:
  explicit Block(unsigned threads)
      : fibers_(threads), order_(threads), warps_(threads / kWarp), barrier_{threads} {
    std::iota(order_.begin(), order_.end(), 0u);
  }

  // False if threads were left that wait for each other for ever.
  bool run(std::function<void()> body) {
    body_ = std::move(body);
    current_block = this;
    for (Fiber& fiber : fibers_) {
      fiber.waits_for = nullptr;
      fiber.done = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = &scheduler_;
      makecontext(&fiber.context, &Block::enter, 0);
    }
    std::shuffle(order_.begin(), order_.end(), random_);
    for (std::size_t left = fibers_.size(); left > 0;) {
      bool moved = false;
      for (const unsigned id : order_) {
        Fiber& fiber = fibers_[id];
        if (fiber.done || (fiber.waits_for && fiber.waits_for->round == fiber.round)) continue;
        threadIdx.x = id;
        swapcontext(&scheduler_, &fiber.context);
        moved = true;
        if (fiber.done) --left;
        if (std::exchange(released_, false)) break;  // some that come earlier can go on
      }
      if (!moved) return false;
    }
    return true;
  }

  void synchronize() { meet(barrier_); }

  unsigned reduce_max(unsigned value) {
    Warp& warp = warps_[threadIdx.x / kWarp];
    auto& posted = warp.posted[warp.meeting.round % 2];
    posted[threadIdx.x % kWarp] = value;
    meet(warp.meeting);
    return *std::max_element(posted.begin(), posted.end());
  }

  static inline Block* current_block = nullptr;

 private:
  static constexpr std::size_t kStackBytes = 64 * 1024;

  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    const Meeting* waits_for;
    unsigned round;
    bool done;
  };

  static void enter() {
    current_block->body_();
    current_block->fibers_[threadIdx.x].done = true;
  }

  void meet(Meeting& meeting) {
    Fiber& fiber = fibers_[threadIdx.x];
    fiber.waits_for = &meeting;
    fiber.round = meeting.round;
    if (++meeting.arrived == meeting.size) {
      meeting.arrived = 0;
      ++meeting.round;
      released_ = true;
    }
    // The last to arrive gives way too: it need not be the first to go on.
    swapcontext(&fiber.context, &scheduler_);
  }

  std::vector<Fiber> fibers_;
  std::vector<unsigned> order_;
  std::vector<Warp> warps_;
  Meeting barrier_;
  bool released_ = false;
  std::function<void()> body_;
  ucontext_t scheduler_;
  std::minstd_rand random_{seed + 1};
};

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), unsigned grid, unsigned block, void* /*stream*/,
            Arguments... arguments) {
  if (grid == 0 || block == 0 || block > kMaxThreads || block % kWarp != 0) {
    error = "invalid configuration: a grid is not empty, a block has 1 to 32 whole warps";
    return;
  }
  gridDim.x = grid;
  blockDim.x = block;
  Block threads(block);
  for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) {
    if (!threads.run([&] { kernel(arguments...); })) {
      error = "deadlock: not all threads reach a barrier or a warp collective";
      return;
    }
  }
}

}  // namespace wf::gpu

inline void __syncthreads() { wf::gpu::Block::current_block->synchronize(); }
// Whole warps only, as the kernels use it.
inline unsigned __reduce_max_sync(unsigned /*mask*/, unsigned value) {
  return wf::gpu::Block::current_block->reduce_max(value);
}

// Rounded to nearest, never contracted: -ffp-contract=off holds for all host code.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline unsigned __float_as_uint(float value) { return __builtin_bit_cast(unsigned, value); }
inline float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
