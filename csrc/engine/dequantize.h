// Block formats of ggml to float32, for tensors the engine keeps dense.
#pragma once

#include <cstdint>

#include "gguf_types.h"

namespace wf::engine {

// True when dequantize() knows the type.
bool can_dequantize(GgufType type);

// One row of `columns` weights (whole blocks). Returns false when a block's scale is not finite.
bool dequantize(GgufType type, const uint8_t* packed, int64_t columns, float* out);

// Q4_0 and Q5_0, whose weights Q8_0 holds exactly: whole rows of `columns` in that type. False, as
// above.
bool can_widen_to_q8_0(GgufType type);
bool widen_to_q8_0(GgufType type, const uint8_t* packed, int64_t columns, uint8_t* out);

}  // namespace wf::engine
