// Weights from a GGUF file. Ternary formats become t2 when the tensor has one scale, float formats
// stay as stored, and everything else runs as float32.
#include <array>
#include <cmath>
#include <cstring>
#include <map>

#include "dequantize.h"
#include "error.h"
#include "gguf.h"
#include "layout/i2s.h"
#include "layout/q4_0.h"
#include "layout/tq1_0.h"
#include "layout/tq2_0.h"
#include "tensor_source.h"

namespace wf::engine {

namespace {

// Names outside the layers, and within one: Hugging Face, GGUF.
constexpr std::array<std::pair<const char*, const char*>, 3> kGlobalNames = {{
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
}};
constexpr std::array<std::pair<const char*, const char*>, 13> kLayerNames = {{
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"self_attn.attn_sub_norm", "attn_sub_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"mlp.ffn_sub_norm", "ffn_sub_norm"},
    {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "ffn_norm"},
}};

// The Hugging Face name of a GGUF tensor; the same name when there is none.
std::string hf_name(const std::string& name) {
  for (const auto& [hf, gguf] : kGlobalNames) {
    if (name == gguf) return hf;
  }
  const size_t dot = name.find('.', 4);
  const size_t last_dot = name.rfind('.');
  if (!name.starts_with("blk.") || dot == std::string::npos || last_dot == dot) return name;
  const std::string module = name.substr(dot + 1, last_dot - dot - 1);
  for (const auto& [hf, gguf] : kLayerNames) {
    if (module == gguf) {
      return "model.layers." + name.substr(4, dot - 4) + "." + hf + name.substr(last_dot);
    }
  }
  return name;
}

class GgufSource : public TensorSource {
 public:
  GgufSource(const GgufFile& file, bool interleaved_rope)
      : file_(file), interleaved_rope_(interleaved_rope) {
    for (const GgufTensor& tensor : file.tensors()) tensors_[hf_name(tensor.name)] = &tensor;
  }

  bool has(const std::string& name) const override { return tensors_.contains(name); }

  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) names.push_back(name);
    return names;
  }

  Matrix matrix(const MatrixRequest& request) const override {
    const GgufTensor& tensor = find(request.name, request.rows, request.columns);
    const auto type = static_cast<GgufType>(tensor.type->id);
    const bool is_ternary_type = type == GgufType::tq1_0 || type == GgufType::tq2_0 ||
                                 type == GgufType::i2_s || type == GgufType::q4_0;
    if (is_ternary_type && request.may_be_ternary) {
      Matrix matrix;
      if (ternary_matrix(request, tensor, matrix)) return matrix;
    }
    return dense_matrix(request, tensor);
  }

  std::vector<float> vector(const std::string& name, int64_t size,
                            int64_t head_dim) const override {
    const GgufTensor& tensor = find(name, 1, size);
    const auto type = static_cast<GgufType>(tensor.type->id);
    if (type != GgufType::f32 && type != GgufType::f16 && type != GgufType::bf16) {
      fail(tensor,
           std::string("is ") + tensor.type->name + ", a norm or bias must be a float type");
    }
    std::vector<uint8_t> bytes = read_bytes(tensor);
    std::vector<float> stored(static_cast<size_t>(size));
    dequantize(type, bytes.data(), size, stored.data());
    std::vector<float> values(stored.size());
    for (int64_t i = 0; i < size; ++i) values[static_cast<size_t>(place(i, head_dim))] = stored[i];
    return values;
  }

  std::vector<std::string> notes() const override {
    std::vector<std::string> lines;
    for (const auto& [type, count] : dequantized_) {
      lines.push_back(std::to_string(count) + " " + type + " tensors run as float32");
    }
    return lines;
  }

 private:
  [[noreturn]] void fail(const GgufTensor& tensor, const std::string& problem) const {
    throw FormatError(file_.file().path(), "tensor '" + tensor.name + "'", tensor.offset, problem);
  }

  const GgufTensor& find(const std::string& name, int64_t rows, int64_t columns) const {
    const GgufTensor& tensor = *tensors_.at(name);
    if (tensor.rows() != rows || tensor.columns() != columns) {
      fail(tensor, "has " + std::to_string(tensor.rows()) + " rows of " +
                       std::to_string(tensor.columns()) + ", the metadata need " +
                       std::to_string(rows) + " of " + std::to_string(columns));
    }
    return tensor;
  }

  std::vector<uint8_t> read_bytes(const GgufTensor& tensor) const {
    std::vector<uint8_t> bytes(tensor.bytes);
    file_.file().read(tensor.offset, bytes.data(), tensor.bytes, tensor.name);
    return bytes;
  }

  // Where a stored row belongs. llama.cpp's converter writes a head's row j of the first half and
  // row j of the second half as neighbours 2j and 2j + 1.
  int64_t place(int64_t row, int64_t head_dim) const {
    if (!interleaved_rope_ || head_dim == 0) return row;
    const int64_t within = row % head_dim;
    return row - within + within % 2 * (head_dim / 2) + within / 2;
  }

  // False when the tensor is no ternary matrix with one positive scale.
  bool ternary_matrix(const MatrixRequest& request, const GgufTensor& tensor, Matrix& out) const {
    const auto type = static_cast<GgufType>(tensor.type->id);
    const std::vector<uint8_t> bytes = read_bytes(tensor);
    const int64_t k = request.columns;
    const int64_t row_bytes = static_cast<int64_t>(bytes.size()) / request.rows;
    std::vector<int8_t> codes(static_cast<size_t>(k));
    BlockScale scale;
    out = Matrix::ternary(request.rows, k);
    for (int64_t row = 0; row < request.rows; ++row) {
      const uint8_t* packed = bytes.data() + row * row_bytes;
      bool is_ternary = true;
      switch (type) {
        case GgufType::tq1_0:
          is_ternary = tq1_0::unpack(packed, k, codes.data(), scale);
          break;
        case GgufType::tq2_0:
          is_ternary = tq2_0::unpack(packed, k, codes.data(), scale);
          break;
        case GgufType::q4_0:
          is_ternary = q4_0::unpack(packed, k, codes.data(), scale);
          break;
        default:
          if (!i2s::unpack(bytes.data(), row * k, k, codes.data())) {
            fail(tensor, "holds a code that no weight has; is it from an ARM build of bitnet.cpp?");
          }
      }
      if (!is_ternary) return false;
      out.set_codes(place(row, request.head_dim), codes.data());
    }
    out.set_scale(type == GgufType::i2_s ? i2s_scale(request, tensor, bytes) : scale.value());
    return true;
  }

  float i2s_scale(const MatrixRequest& request, const GgufTensor& tensor,
                  const std::vector<uint8_t>& bytes) const {
    const float scale = i2s::load_scale(bytes.data(), request.rows, request.columns);
    if (!std::isfinite(scale) || scale < 0) fail(tensor, "its scale is negative or not finite");
    return scale;
  }

  Matrix dense_matrix(const MatrixRequest& request, const GgufTensor& tensor) const {
    const auto type = static_cast<GgufType>(tensor.type->id);
    if (!can_dequantize(type)) {
      fail(tensor, std::string("the type ") + tensor.type->name + " cannot be run");
    }
    const auto row_bytes =
        static_cast<uint64_t>(tensor.bytes) / static_cast<uint64_t>(request.rows);
    const DenseType kept = type == GgufType::f16    ? DenseType::f16
                           : type == GgufType::bf16 ? DenseType::bf16
                           : type == GgufType::q8_0 ? DenseType::q8_0
                                                    : DenseType::f32;
    const bool is_kept = kept != DenseType::f32 || type == GgufType::f32;
    Matrix matrix = Matrix::dense(request.rows, request.columns, kept);
    std::vector<uint8_t> packed(row_bytes);
    for (int64_t row = 0; row < request.rows; ++row) {
      file_.file().read(tensor.offset + static_cast<uint64_t>(row) * row_bytes, packed.data(),
                        row_bytes, tensor.name);
      uint8_t* target = matrix.row(place(row, request.head_dim));
      if (is_kept) {
        std::memcpy(target, packed.data(), row_bytes);
      } else if (!dequantize(type, packed.data(), request.columns,
                             reinterpret_cast<float*>(target))) {
        fail(tensor, "a block's scale is not finite, or its codes are invalid");
      }
    }
    if (!is_kept) ++dequantized_[tensor.type->name];
    return matrix;
  }

  const GgufFile& file_;
  bool interleaved_rope_;
  std::map<std::string, const GgufTensor*> tensors_;
  mutable std::map<std::string, int> dequantized_;
};

}  // namespace

std::unique_ptr<TensorSource> open_gguf(const GgufFile& file, bool interleaved_rope) {
  return std::make_unique<GgufSource>(file, interleaved_rope);
}

}  // namespace wf::engine
