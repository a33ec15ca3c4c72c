// Per-token int8 quantization of activations: the integers and scales of core/act_quant.inl, bit
// for bit.
//
//   a = max(absmax, 1e-5), q = rint(x * (127 / a)), scale = a / 127
//   q = 0, scale = NaN for a row that holds a NaN or an infinity
//
// One block per row at a time. A row is read twice, the second time from L1 or L2 (a row of 6912
// float32 is 27 KB), so the kernel is bound by memory: 5 bytes per float32 element, 3 per 16-bit
// one. The maximum is one of integers, hence exact in any order, and sm_80 reduces it over a warp
// in one instruction. Sums, products and quotients are spelled as intrinsics, which the compiler
// neither contracts to fma nor approximates.
#pragma once

#include <cstdint>

#include "gpu.h"
#include "kernels.h"

namespace wf::cuda {

constexpr unsigned kLanes = 32;
constexpr unsigned kMaxWarps = 8;
constexpr int kTurn = 4;  // elements that a thread takes at once

struct F16 {
  std::uint16_t bits;
};
struct Bf16 {
  std::uint16_t bits;
};

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(F16 value) { return gpu::f16_to_f32(value.bits); }
__device__ inline float to_float(Bf16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}

// Neighbouring threads take neighbouring elements, and the loads of a turn are in flight together.
// Past the end of the row: 0, which changes no maximum.
template <class Element>
__device__ inline void load_turn(const Element* row, std::int64_t first, std::int64_t k,
                                 float (&v)[kTurn]) {
  for (int j = 0; j < kTurn; ++j) {
    const std::int64_t i = first + j * blockDim.x;
    v[j] = i < k ? to_float(row[i]) : 0.0f;
  }
}

// The largest value of any thread of the block, for all of them.
__device__ inline unsigned block_max(unsigned value) {
  __shared__ unsigned of_warp[kMaxWarps];
  value = __reduce_max_sync(0xffffffffu, value);
  __syncthreads();  // all have read what the last call left
  if (threadIdx.x % kLanes == 0) of_warp[threadIdx.x / kLanes] = value;
  __syncthreads();
  for (unsigned warp = 0; warp < blockDim.x / kLanes; ++warp) {
    value = of_warp[warp] > value ? of_warp[warp] : value;
  }
  return value;
}

template <class Element>
__global__ void quantize_rows(const Element* __restrict__ x, std::int64_t rows, std::int64_t k,
                              std::int8_t* __restrict__ q, float* scale) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const Element* from = x + row * k;
    std::int8_t* to = q + row * k;
    float v[kTurn];
    unsigned most = 0;
    for (std::int64_t i = threadIdx.x; i < k; i += kTurn * blockDim.x) {
      load_turn(from, i, k, v);
      for (int j = 0; j < kTurn; ++j) {
        const unsigned bits = __float_as_uint(v[j]) & 0x7fffffffu;
        most = bits > most ? bits : most;
      }
    }
    most = block_max(most);
    const bool finite = most < kInfinityBits;
    const float absmax = __uint_as_float(most);
    const float a = absmax > kMinAbsMax ? absmax : kMinAbsMax;
    const float inverse = __fdiv_rn(127.0f, a);
    for (std::int64_t i = threadIdx.x; i < k; i += kTurn * blockDim.x) {
      load_turn(from, i, k, v);
      for (int j = 0; j < kTurn; ++j) {
        const std::int64_t column = i + j * blockDim.x;
        const unsigned code = __float_as_uint(__fadd_rn(__fmul_rn(v[j], inverse), kRoundBias));
        if (column < k) to[column] = finite ? static_cast<std::int8_t>(code) : std::int8_t{0};
      }
    }
    if (threadIdx.x == 0) scale[row] = finite ? __fdiv_rn(a, 127.0f) : __uint_as_float(0x7fc00000u);
  }
}

}  // namespace wf::cuda
