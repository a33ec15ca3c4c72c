// kv: how keys and values of one head lie in one page of the cache, 32 positions.
//
//   keys    [head_dim][32]    transposed, so that 8 lanes are 8 positions and no sum is horizontal
//   values  [32][head_dim]
//
// Elements are float32, float16, bfloat16 or int8; int8 has a float32 scale for each position
// behind the elements, of a key and of a value.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace wf::kv {

static constexpr std::int64_t element_bytes(KvType type) {
  return type == KvType::f32 ? 4 : type == KvType::int8 ? 1 : 2;
}

// Of the keys, or the values, of one head in one page.
static constexpr std::int64_t head_bytes(KvType type, std::int64_t head_dim) {
  const std::int64_t scales = type == KvType::int8 ? kKvPage * 4 : 0;
  return kKvPage * head_dim * element_bytes(type) + scales;
}

}  // namespace wf::kv
