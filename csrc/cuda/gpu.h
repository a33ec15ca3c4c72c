// What a kernel source needs of CUDA: nvcc gets the real thing, a host compiler gets the emulator,
// which runs the same source on the CPU. Whatever the two spell differently is wrapped here.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include <cuda_runtime.h>

#define WF_LAUNCH(kernel, grid, block, stream, ...) \
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)

namespace wf::gpu {

// Null, or what was wrong with the last launch.
inline const char* launch_error() noexcept {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// In PTX, since cuda_fp16.h would add a second to the compilation of every kernel.
__device__ inline float f16_to_f32(std::uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

}  // namespace wf::gpu
#else
#include "emulator.h"
#endif
