// Random rows of Q8_0 and Q6_K.
#pragma once

#include <cstdint>
#include <random>

#include "kernels.h"
#include "layout/half.h"
#include "layout/q6_k.h"
#include "layout/q8_0.h"

namespace wf::test {

constexpr bool is_coded(DenseType type) {
  return type == DenseType::q8_0 || type == DenseType::q6_k;
}

// Uniform codes; weights reach about 128 * `scale`.
template <typename Generator>
void fill_coded_row(DenseType type, std::int64_t k, float scale, Generator& generator,
                    std::uint8_t* row) {
  const bool is_q8 = type == DenseType::q8_0;
  const std::int64_t bytes = is_q8 ? q8_0::row_bytes(k) : q6_k::row_bytes(k);
  const std::int64_t block = is_q8 ? q8_0::kBlockBytes : q6_k::kBlockBytes;
  for (std::int64_t i = 0; i < bytes; ++i) row[i] = static_cast<std::uint8_t>(generator());
  for (std::int64_t b = 0; b < bytes; b += block) {
    // Of Q6_K the int8 scales are as large as the codes.
    const float d = scale * (is_q8 ? 1.0f : 1.0f / 32);
    half::store_u16(row + b + (is_q8 ? 0 : 208), half::f32_to_f16(d));
  }
}

}  // namespace wf::test
