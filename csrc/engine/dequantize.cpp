#include "dequantize.h"

#include <cmath>
#include <cstring>

#include "layout/half.h"
#include "layout/q6_k.h"
#include "layout/q8_0.h"
#include "layout/tq1_0.h"
#include "layout/tq2_0.h"

namespace wf::engine {

namespace {

float load_half(const uint8_t* at) { return half::f16_to_f32(half::load_u16(at)); }

// Bit 4 of weight i of a Q5 block.
int fifth_bit(const uint8_t* high, int i) { return (high[i / 8] >> (i % 8) & 1) << 4; }

bool q4_1_block(const uint8_t* block, float* out) {
  const float d = load_half(block);
  const float least = load_half(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(block[4 + i] & 15) + least;
    out[16 + i] = d * static_cast<float>(block[4 + i] >> 4) + least;
  }
  return std::isfinite(d) && std::isfinite(least);
}

bool q5_1_block(const uint8_t* block, float* out) {
  const float d = load_half(block);
  const float least = load_half(block + 2);
  const uint8_t* low = block + 8;
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((low[i] & 15) | fifth_bit(block + 4, i)) + least;
    out[16 + i] = d * static_cast<float>((low[i] >> 4) | fifth_bit(block + 4, 16 + i)) + least;
  }
  return std::isfinite(d) && std::isfinite(least);
}

bool q8_0_block(const uint8_t* block, float* out) {
  for (int64_t i = 0; i < q8_0::kBlock; ++i) out[i] = q8_0::weight(block, i);
  return std::isfinite(q8_0::scale(block));
}

// Blocks of Q4_0 and Q5_0 as Q8_0: the same scale, the same codes in bytes.
void widen_q4_0(const uint8_t* block, uint8_t* wide) {
  std::memcpy(wide, block, 2);
  for (int i = 0; i < 16; ++i) {
    wide[q8_0::kCodes + i] = static_cast<uint8_t>((block[2 + i] & 15) - 8);
    wide[q8_0::kCodes + 16 + i] = static_cast<uint8_t>((block[2 + i] >> 4) - 8);
  }
}

void widen_q5_0(const uint8_t* block, uint8_t* wide) {
  const uint8_t* low = block + 6;
  std::memcpy(wide, block, 2);
  for (int i = 0; i < 16; ++i) {
    const int first = (low[i] & 15) | fifth_bit(block + 2, i);
    const int second = (low[i] >> 4) | fifth_bit(block + 2, 16 + i);
    wide[q8_0::kCodes + i] = static_cast<uint8_t>(first - 16);
    wide[q8_0::kCodes + 16 + i] = static_cast<uint8_t>(second - 16);
  }
}

bool q6_k_block(const uint8_t* block, float* out) {
  for (int64_t i = 0; i < q6_k::kBlock; i += q6_k::kPart) q6_k::weights(block, i, out + i);
  return std::isfinite(load_half(block + 208));
}

// The codes by the layout's own rules (which also knows the bit fields), the scale by hand: here it
// may differ from block to block.
template <typename Unpack>
bool ternary_block(const uint8_t* block, int64_t scale_at, Unpack unpack, float* out) {
  int8_t codes[256] = {};
  BlockScale ignored;
  unpack(block, 256, codes, ignored);
  const float d = load_half(block + scale_at);
  for (int i = 0; i < 256; ++i) out[i] = d * static_cast<float>(codes[i]);
  return std::isfinite(d) && ignored.error() != UnpackError::bad_code;
}

bool dequantize_block(GgufType type, const uint8_t* block, float* out) {
  uint8_t wide[q8_0::kBlockBytes];
  switch (type) {
    case GgufType::q4_0:
      widen_q4_0(block, wide);
      return q8_0_block(wide, out);
    case GgufType::q5_0:
      widen_q5_0(block, wide);
      return q8_0_block(wide, out);
    case GgufType::q4_1:
      return q4_1_block(block, out);
    case GgufType::q5_1:
      return q5_1_block(block, out);
    case GgufType::q8_0:
      return q8_0_block(block, out);
    case GgufType::q6_k:
      return q6_k_block(block, out);
    case GgufType::tq1_0:
      return ternary_block(block, 52, tq1_0::unpack, out);
    case GgufType::tq2_0:
      return ternary_block(block, 64, tq2_0::unpack, out);
    default:
      return false;
  }
}

}  // namespace

bool can_dequantize(GgufType type) {
  switch (type) {
    case GgufType::f32:
    case GgufType::f16:
    case GgufType::bf16:
    case GgufType::q4_0:
    case GgufType::q4_1:
    case GgufType::q5_0:
    case GgufType::q5_1:
    case GgufType::q8_0:
    case GgufType::q6_k:
    case GgufType::tq1_0:
    case GgufType::tq2_0:
      return true;
    default:
      return false;
  }
}

bool dequantize(GgufType type, const uint8_t* packed, int64_t columns, float* out) {
  switch (type) {
    case GgufType::f32:
      std::memcpy(out, packed, static_cast<size_t>(columns) * 4);
      return true;
    case GgufType::f16:
      for (int64_t i = 0; i < columns; ++i) out[i] = load_half(packed + 2 * i);
      return true;
    case GgufType::bf16:
      for (int64_t i = 0; i < columns; ++i) {
        out[i] = half::bf16_to_f32(half::load_u16(packed + 2 * i));
      }
      return true;
    default:
      break;
  }
  const GgufTypeInfo* info = find_gguf_type(static_cast<uint32_t>(type));
  for (int64_t i = 0; i < columns; i += info->block_weights, packed += info->block_bytes) {
    if (!dequantize_block(type, packed, out + i)) return false;
  }
  return true;
}

bool can_widen_to_q8_0(GgufType type) { return type == GgufType::q4_0 || type == GgufType::q5_0; }

bool widen_to_q8_0(GgufType type, const uint8_t* packed, int64_t columns, uint8_t* out) {
  const GgufTypeInfo* info = find_gguf_type(static_cast<uint32_t>(type));
  const auto widen = type == GgufType::q4_0 ? widen_q4_0 : widen_q5_0;
  for (int64_t i = 0; i < columns; i += q8_0::kBlock) {
    widen(packed, out);
    if (!std::isfinite(q8_0::scale(out))) return false;
    packed += info->block_bytes;
    out += q8_0::kBlockBytes;
  }
  return true;
}

}  // namespace wf::engine
