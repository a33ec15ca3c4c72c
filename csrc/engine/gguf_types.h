// The tensor types a GGUF file may hold, and how many bytes a row of each takes.
#pragma once

#include <cstdint>
#include <string>

namespace wf::engine {

enum class GgufType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q6_k = 14,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  i2_s = 36,     // bitnet.cpp only: 2-bit codes of the whole tensor, then 32 bytes with the scale
  iq2_bn = 135,  // ik_llama.cpp only: a row is its scale, then 2-bit codes
};

struct GgufTypeInfo {
  uint32_t id;
  const char* name;
  int64_t block_weights;
  int64_t block_bytes;
  int64_t row_header_bytes = 0;
};

// Description of a type id, or null when the id is unknown, removed, or a fork's own.
const GgufTypeInfo* find_gguf_type(uint32_t id);

// What the type of another program is and what to do with it; null for an id nobody has.
const char* foreign_gguf_type(uint32_t id);

// "0 F32, 1 F16, ...", for error texts.
std::string gguf_type_list();

// Bytes of a tensor of `rows` rows of `row_weights` weights, or 0 when a row is not whole blocks or
// the product does not fit in 63 bits.
uint64_t gguf_tensor_bytes(const GgufTypeInfo& type, uint64_t row_weights, uint64_t rows);

}  // namespace wf::engine
