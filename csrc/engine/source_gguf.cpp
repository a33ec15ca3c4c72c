// Weights from a GGUF file. Ternary formats become t2 when the tensor has one scale, and so do
// float formats in a file of BitLinear layers; other floats stay as stored, everything else runs as
// float32.
#include <algorithm>
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

GgufType type_of(const GgufTensor& tensor) { return static_cast<GgufType>(tensor.type->id); }

bool is_float(GgufType type) {
  return type == GgufType::f32 || type == GgufType::f16 || type == GgufType::bf16;
}

// Types that hold nothing but ternary weights; a Q4_0 tensor may hold them.
bool is_ternary_only(GgufType type) {
  return type == GgufType::tq1_0 || type == GgufType::tq2_0 || type == GgufType::i2_s;
}

// Whether the linear layers are BitLinear, which quantize their input: the file says so (wf-convert
// writes no others), it has sub-norms, or it has a type that only such layers have.
bool has_bitlinear_layers(const GgufFile& file) {
  if (file.find("wrinklefree.schema") != nullptr) return true;
  return std::any_of(file.tensors().begin(), file.tensors().end(), [](const GgufTensor& tensor) {
    return is_ternary_only(type_of(tensor)) || tensor.name.ends_with("_sub_norm.weight");
  });
}

class GgufSource : public TensorSource {
 public:
  GgufSource(const GgufFile& file, bool interleaved_rope)
      : file_(file),
        interleaved_rope_(interleaved_rope),
        has_bitlinear_layers_(has_bitlinear_layers(file)) {
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
    const GgufType type = type_of(tensor);
    if (!request.may_be_ternary) return dense_matrix(request, tensor);
    Matrix matrix;
    if (is_ternary_only(type) || type == GgufType::q4_0) {
      if (ternary_matrix(request, tensor, matrix)) return matrix;
    } else if (has_bitlinear_layers_ && is_float(type)) {
      if (float_ternary_matrix(request, tensor, matrix)) return matrix;
    }
    if (has_bitlinear_layers_) unquantized_.push_back(tensor.name);
    return dense_matrix(request, tensor);
  }

  std::vector<float> vector(const std::string& name, int64_t size,
                            int64_t head_dim) const override {
    const GgufTensor& tensor = find(name, 1, size);
    const GgufType type = type_of(tensor);
    if (!is_float(type)) {
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
    if (!unquantized_.empty()) lines.push_back(unquantized_note());
    return lines;
  }

 private:
  [[noreturn]] void fail(const GgufTensor& tensor, const std::string& problem) const {
    throw FormatError(file_.file().path(), "tensor '" + tensor.name + "'", tensor.offset, problem);
  }

  std::string unquantized_note() const {
    constexpr size_t kListed = 8;
    std::string line =
        "projections of this ternary model that are not ternary and run without int8 "
        "activations: " +
        std::to_string(unquantized_.size()) + " (";
    for (size_t i = 0; i < std::min(kListed, unquantized_.size()); ++i) {
      line.append(i == 0 ? "" : ", ").append(unquantized_[i]);
    }
    return line.append(unquantized_.size() > kListed ? ", ...)" : ")");
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

  // One stored row; `bytes` has its size.
  void read_row(const GgufTensor& tensor, int64_t row, std::vector<uint8_t>& bytes) const {
    file_.file().read(tensor.offset + static_cast<uint64_t>(row) * bytes.size(), bytes.data(),
                      bytes.size(), tensor.name);
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
    const GgufType type = type_of(tensor);
    const std::vector<uint8_t> bytes = read_bytes(tensor);
    const int64_t k = request.columns;
    const int64_t row_bytes = static_cast<int64_t>(bytes.size()) / request.rows;
    std::vector<int8_t> codes(static_cast<size_t>(k));
    BlockScale scale;
    out = Matrix::ternary(request.rows, k, request.layout);
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

  // The same for a float type, where the scale is the magnitude of all weights but the zeros. An
  // F16 row is what wf-convert writes where no block divides it.
  bool float_ternary_matrix(const MatrixRequest& request, const GgufTensor& tensor,
                            Matrix& out) const {
    const int64_t k = request.columns;
    std::vector<uint8_t> stored(tensor.bytes / static_cast<uint64_t>(request.rows));
    std::vector<float> weights(static_cast<size_t>(k));
    std::vector<int8_t> codes(static_cast<size_t>(k));
    float scale = 0;
    bool is_ternary = true;
    out = Matrix::ternary(request.rows, k, request.layout);
    for (int64_t row = 0; row < request.rows; ++row) {
      read_row(tensor, row, stored);
      dequantize(type_of(tensor), stored.data(), k, weights.data());
      for (int64_t i = 0; i < k; ++i) {
        const float magnitude = std::fabs(weights[i]);
        if (!std::isfinite(magnitude)) fail(tensor, "holds a NaN or infinity");
        if (scale == 0) scale = magnitude;
        is_ternary &= magnitude == 0 || magnitude == scale;
        codes[i] = static_cast<int8_t>((weights[i] > 0) - (weights[i] < 0));
      }
      // The rows that are left are still searched for NaNs.
      if (is_ternary) out.set_codes(place(row, request.head_dim), codes.data());
    }
    out.set_scale(scale);
    return is_ternary;
  }

  float i2s_scale(const MatrixRequest& request, const GgufTensor& tensor,
                  const std::vector<uint8_t>& bytes) const {
    const float scale = i2s::load_scale(bytes.data(), request.rows, request.columns);
    if (!std::isfinite(scale) || scale < 0) fail(tensor, "its scale is negative or not finite");
    return scale;
  }

  Matrix dense_matrix(const MatrixRequest& request, const GgufTensor& tensor) const {
    const GgufType type = type_of(tensor);
    if (!can_dequantize(type)) {
      fail(tensor, std::string("the type ") + tensor.type->name + " cannot be run");
    }
    const DenseType kept = type == GgufType::f16    ? DenseType::f16
                           : type == GgufType::bf16 ? DenseType::bf16
                           : type == GgufType::q8_0 ? DenseType::q8_0
                                                    : DenseType::f32;
    const bool is_kept = kept != DenseType::f32 || type == GgufType::f32;
    Matrix matrix = Matrix::dense(request.rows, request.columns, kept);
    std::vector<uint8_t> packed(tensor.bytes / static_cast<uint64_t>(request.rows));
    for (int64_t row = 0; row < request.rows; ++row) {
      read_row(tensor, row, packed);
      uint8_t* target = matrix.row(place(row, request.head_dim));
      if (is_kept) {
        std::memcpy(target, packed.data(), packed.size());
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
  bool has_bitlinear_layers_;
  std::map<std::string, const GgufTensor*> tensors_;
  mutable std::map<std::string, int> dequantized_;
  mutable std::vector<std::string> unquantized_;  // dense projections beside ternary ones
};

}  // namespace

std::unique_ptr<TensorSource> open_gguf(const GgufFile& file, bool interleaved_rope) {
  return std::make_unique<GgufSource>(file, interleaved_rope);
}

}  // namespace wf::engine
