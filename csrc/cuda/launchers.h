// The launchers of the CUDA kernels: plain C++, so that neither torch nor CUDA headers meet the
// other. Pointers are device pointers, `stream` is a cudaStream_t of the current device. Each
// returns null, or why it could not launch; none waits for its kernel.
#pragma once

#include <cstdint>

namespace wf::cuda {

enum class FloatType : std::uint8_t { f32, f16, bf16 };

// KernelTable::quantize_act_int8 for dense rows x [rows, k], q [rows, k] and scale [rows].
const char* quantize_act_int8(const void* x, FloatType type, std::int64_t rows, std::int64_t k,
                              std::int8_t* q, float* scale, void* stream) noexcept;

}  // namespace wf::cuda
