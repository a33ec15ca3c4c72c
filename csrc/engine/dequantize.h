// Block formats of ggml to float32, for tensors the engine keeps dense.
#pragma once

#include <cstdint>

#include "gguf_types.h"

namespace wf::engine {

// True when dequantize() knows the type.
bool can_dequantize(GgufType type);

// One row of `columns` weights (whole blocks). Returns false when a block's scale is not finite.
bool dequantize(GgufType type, const uint8_t* packed, int64_t columns, float* out);

}  // namespace wf::engine
