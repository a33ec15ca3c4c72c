#include "gguf_types.h"

#include <array>

namespace wf::engine {

namespace {
// I2_S has no blocks: gguf_tensor_bytes knows it; 4 weights a byte stand here for listings.
constexpr std::array<GgufTypeInfo, 35> kTypes = {{
    {0, "F32", 1, 4},         {1, "F16", 1, 2},           {2, "Q4_0", 32, 18},
    {3, "Q4_1", 32, 20},      {6, "Q5_0", 32, 22},        {7, "Q5_1", 32, 24},
    {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},        {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},     {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},     {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},  {18, "IQ3_XXS", 256, 98},   {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},    {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},           {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},          {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},   {30, "BF16", 1, 2},         {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},   {36, "I2_S", 128, 32},      {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},    {135, "IQ2_BN", 64, 16, 4},
}};
constexpr uint64_t kI2sTrailerBytes = 32;

// Types of other programs that are not read, and what to do instead.
struct ForeignType {
  uint32_t id;
  const char* advice;
};
constexpr std::array<ForeignType, 3> kForeignTypes = {{
    {37, "I8_S of bitnet.cpp, which holds activations"},
    {38, "TL1 of bitnet.cpp, whose tiles fit the kernels of one machine: convert its I2_S file"},
    {134, "IQ1_BN of ik_llama.cpp: its IQ2_BN holds the same weights and is read"},
}};
}  // namespace

const char* foreign_gguf_type(uint32_t id) {
  for (const ForeignType& type : kForeignTypes) {
    if (type.id == id) return type.advice;
  }
  return nullptr;
}

const GgufTypeInfo* find_gguf_type(uint32_t id) {
  for (const GgufTypeInfo& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

std::string gguf_type_list() {
  std::string list;
  for (const GgufTypeInfo& type : kTypes) {
    if (!list.empty()) list += ", ";
    list += std::to_string(type.id) + " " + type.name;
  }
  return list;
}

uint64_t gguf_tensor_bytes(const GgufTypeInfo& type, uint64_t row_weights, uint64_t rows) {
  uint64_t weights = 0;
  uint64_t row_bytes = 0;
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(row_weights, rows, &weights)) return 0;
  const auto block_weights = static_cast<uint64_t>(type.block_weights);
  if (row_weights % block_weights != 0) return 0;
  if (__builtin_mul_overflow(row_weights / block_weights, static_cast<uint64_t>(type.block_bytes),
                             &row_bytes) ||
      __builtin_add_overflow(row_bytes, static_cast<uint64_t>(type.row_header_bytes), &row_bytes) ||
      __builtin_mul_overflow(row_bytes, rows, &bytes)) {
    return 0;
  }
  if (type.id == static_cast<uint32_t>(GgufType::i2_s)) {
    if (__builtin_add_overflow(bytes, kI2sTrailerBytes, &bytes)) return 0;
  }
  return bytes >> 63 ? 0 : bytes;
}

}  // namespace wf::engine
