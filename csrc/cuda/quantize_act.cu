#include <algorithm>
#include <limits>

#include "launchers.h"
#include "quantize_act.cuh"

namespace wf::cuda {

// Just enough warps to take the row in one turn. Beyond eight a block only waits longer at its
// barriers.
static unsigned threads_for(std::int64_t k) {
  const std::int64_t per_warp = kTurn * kLanes;
  return static_cast<unsigned>(std::min<std::int64_t>((k + per_warp - 1) / per_warp, kMaxWarps)) *
         kLanes;
}

const char* quantize_act_int8(const void* x, FloatType type, std::int64_t rows, std::int64_t k,
                              std::int8_t* q, float* scale, void* stream) noexcept {
  if (rows == 0) return nullptr;  // an empty grid is an error in CUDA
  const unsigned threads = threads_for(k);
  const auto blocks =
      static_cast<unsigned>(std::min<std::int64_t>(rows, std::numeric_limits<int>::max()));
  switch (type) {
    case FloatType::f32:
      WF_LAUNCH(quantize_rows<float>, blocks, threads, stream, static_cast<const float*>(x), rows,
                k, q, scale);
      break;
    case FloatType::f16:
      WF_LAUNCH(quantize_rows<F16>, blocks, threads, stream, static_cast<const F16*>(x), rows, k, q,
                scale);
      break;
    case FloatType::bf16:
      WF_LAUNCH(quantize_rows<Bf16>, blocks, threads, stream, static_cast<const Bf16*>(x), rows, k,
                q, scale);
      break;
  }
  return gpu::launch_error();
}

}  // namespace wf::cuda
