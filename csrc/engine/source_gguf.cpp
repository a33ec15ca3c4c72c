// Weights from a GGUF file. Ternary formats become t2 when the tensor has one scale, and so do
// float formats in a file of BitLinear layers; other floats, Q8_0 and Q6_K stay as stored, Q4_0 and
// Q5_0 become Q8_0, everything else runs as float32.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>

#include "dequantize.h"
#include "error.h"
#include "gguf.h"
#include "layout/i2s.h"
#include "layout/iq2_bn.h"
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
  const auto layer_name = [&](const std::string& part) {
    return "model.layers." + name.substr(4, dot - 4) + "." + part + name.substr(last_dot);
  };
  for (const auto& [hf, gguf] : kLayerNames) {
    if (module == gguf) return layer_name(hf);
  }
  // The norm inside a linear layer: attn_q_sub_norm and so on.
  for (const auto& [hf, gguf] : kLayerNames) {
    if (module == std::string(gguf) + "_sub_norm") return layer_name(std::string(hf) + ".norm");
  }
  return name;
}

GgufType type_of(const GgufTensor& tensor) { return static_cast<GgufType>(tensor.type->id); }

bool is_float(GgufType type) {
  return type == GgufType::f32 || type == GgufType::f16 || type == GgufType::bf16;
}

// Types that hold nothing but ternary weights; a Q4_0 tensor may hold them.
bool is_ternary_only(GgufType type) {
  return type == GgufType::tq1_0 || type == GgufType::tq2_0 || type == GgufType::i2_s ||
         type == GgufType::iq2_bn;
}

// Whether the linear layers are BitLinear, which quantize their input: the file says so (wf-convert
// writes no others), it has sub-norms, or it has a type that only such layers have.
bool has_bitlinear_layers(const GgufFile& file) {
  if (file.find("wrinklefree.schema") != nullptr) return true;
  return std::any_of(file.tensors().begin(), file.tensors().end(), [](const GgufTensor& tensor) {
    return is_ternary_only(type_of(tensor)) || tensor.name.ends_with("_sub_norm.weight");
  });
}

// The type that a dense tensor runs as it is stored in.
std::optional<DenseType> dense_type(GgufType type) {
  switch (type) {
    case GgufType::f32:
      return DenseType::f32;
    case GgufType::f16:
      return DenseType::f16;
    case GgufType::bf16:
      return DenseType::bf16;
    case GgufType::q8_0:
      return DenseType::q8_0;
    case GgufType::q6_k:
      return DenseType::q6_k;
    default:
      return std::nullopt;
  }
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

  StoredTensor stored(const std::string& name) const override {
    const GgufTensor& tensor = *tensors_.at(name);
    return {file_.file(), tensor.offset, tensor.bytes, tensor.type->name, tensor.shape};
  }

  Matrix matrix(const MatrixRequest& request, LoadWorkers& workers) const override {
    const GgufTensor& tensor = find(request.name, request.rows, request.columns);
    const GgufType type = type_of(tensor);
    if (!request.may_be_ternary) return dense_matrix(request, tensor, workers);
    std::optional<Matrix> matrix;
    if (type == GgufType::i2_s) return i2s_matrix(request, tensor, workers);
    if (type == GgufType::iq2_bn) return iq2_bn_matrix(request, tensor, workers);
    if (is_ternary_only(type) || type == GgufType::q4_0) {
      matrix = ternary_matrix(request, tensor, workers);
    } else if (has_bitlinear_layers_ && is_float(type)) {
      matrix = float_ternary_matrix(request, tensor, workers);
    }
    if (matrix) return std::move(*matrix);
    if (has_bitlinear_layers_) unquantized_.push_back(tensor.name);
    return dense_matrix(request, tensor, workers);
  }

  std::vector<float> vector(const std::string& name, int64_t size,
                            int64_t head_dim) const override {
    const GgufTensor& tensor = find(name, 1, size);
    const GgufType type = type_of(tensor);
    if (!is_float(type)) {
      fail(tensor,
           std::string("is ") + tensor.type->name + ", a norm or bias must be a float type");
    }
    std::vector<uint8_t> bytes;
    read(tensor, 0, tensor.bytes, bytes);
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

  // Bytes [begin, begin + count) of the tensor.
  void read(const GgufTensor& tensor, uint64_t begin, uint64_t count,
            std::vector<uint8_t>& bytes) const {
    bytes.resize(count);
    file_.file().read(tensor.offset + begin, bytes.data(), count, tensor.name);
  }

  // Where a stored row belongs. llama.cpp's converter writes a head's row j of the first half and
  // row j of the second half as neighbours 2j and 2j + 1.
  int64_t place(int64_t row, int64_t head_dim) const {
    if (!interleaved_rope_ || head_dim == 0) return row;
    const int64_t within = row % head_dim;
    return row - within + within % 2 * (head_dim / 2) + within / 2;
  }

  // visit(row, stored row, scratch) for all rows, on the threads of `workers`; false as soon as a
  // visit is.
  template <typename Visit>
  bool for_each_row(const MatrixRequest& request, const GgufTensor& tensor, LoadWorkers& workers,
                    Visit visit) const {
    // I2_S has its scale behind the rows.
    const uint64_t tail_bytes = type_of(tensor) == GgufType::i2_s ? i2s::kTailBytes : 0;
    const uint64_t row_bytes = (tensor.bytes - tail_bytes) / static_cast<uint64_t>(request.rows);
    const auto work = [&](int64_t first, int64_t count, LoadWorkers::Scratch& scratch) {
      read(tensor, static_cast<uint64_t>(first) * row_bytes,
           static_cast<uint64_t>(count) * row_bytes, scratch.bytes);
      const uint8_t* stored = scratch.bytes.data();
      for (int64_t r = 0; r < count; ++r, stored += row_bytes) {
        if (!visit(first + r, stored, scratch)) return false;
      }
      return true;
    };
    return workers.for_rows(request.rows, static_cast<int64_t>(row_bytes), work);
  }

  // Nothing when the tensor is no ternary matrix with one positive scale.
  std::optional<Matrix> ternary_matrix(const MatrixRequest& request, const GgufTensor& tensor,
                                       LoadWorkers& workers) const {
    const int64_t k = request.columns;
    const GgufType type = type_of(tensor);
    const auto unpack = type == GgufType::tq1_0   ? tq1_0::unpack
                        : type == GgufType::tq2_0 ? tq2_0::unpack
                                                  : q4_0::unpack;
    Matrix matrix = Matrix::ternary(request.rows, k, request.layout);
    std::vector<float> scales(static_cast<size_t>(request.rows));
    const auto visit = [&](int64_t row, const uint8_t* stored, LoadWorkers::Scratch& scratch) {
      scratch.codes.resize(static_cast<size_t>(k));
      BlockScale scale;
      if (!unpack(stored, k, scratch.codes.data(), scale)) return false;
      scales[row] = scale.value();
      matrix.set_codes(place(row, request.head_dim), scratch.codes.data());
      return true;
    };
    if (!for_each_row(request, tensor, workers, visit)) return std::nullopt;
    return with_one_scale(std::move(matrix), scales);
  }

  // The same for a float type, where the scale is the magnitude of all weights but the zeros. An
  // F16 row is what wf-convert writes where no block divides it.
  std::optional<Matrix> float_ternary_matrix(const MatrixRequest& request, const GgufTensor& tensor,
                                             LoadWorkers& workers) const {
    const int64_t k = request.columns;
    Matrix matrix = Matrix::ternary(request.rows, k, request.layout);
    std::vector<float> scales(static_cast<size_t>(request.rows));
    std::atomic<bool> is_ternary = true;
    const auto visit = [&](int64_t row, const uint8_t* stored, LoadWorkers::Scratch& scratch) {
      scratch.floats.resize(static_cast<size_t>(k));
      scratch.codes.resize(static_cast<size_t>(k));
      const float* weights = scratch.floats.data();
      dequantize(type_of(tensor), stored, k, scratch.floats.data());
      float scale = 0;
      bool is_row_ternary = true;
      for (int64_t i = 0; i < k; ++i) {
        const float magnitude = std::fabs(weights[i]);
        if (!std::isfinite(magnitude)) fail(tensor, "holds a NaN or infinity");
        if (scale == 0) scale = magnitude;
        is_row_ternary &= magnitude == 0 || magnitude == scale;
        scratch.codes[i] = static_cast<int8_t>((weights[i] > 0) - (weights[i] < 0));
      }
      scales[row] = scale;
      if (is_row_ternary) {
        matrix.set_codes(place(row, request.head_dim), scratch.codes.data());
      } else {
        is_ternary = false;  // the rows that are left are still searched for NaNs
      }
      return true;
    };
    for_each_row(request, tensor, workers, visit);
    if (!is_ternary) return std::nullopt;
    return with_one_scale(std::move(matrix), scales);
  }

  // The matrix, if its rows have one scale; a row of zeros has none, which is 0.
  static std::optional<Matrix> with_one_scale(Matrix matrix, const std::vector<float>& scales) {
    float common = 0;
    for (const float scale : scales) {
      if (common == 0) common = scale;
      if (scale != 0 && scale != common) return std::nullopt;
    }
    matrix.set_scale(common);
    return matrix;
  }

  Matrix i2s_matrix(const MatrixRequest& request, const GgufTensor& tensor,
                    LoadWorkers& workers) const {
    const int64_t k = request.columns;
    Matrix matrix = Matrix::ternary(request.rows, k, request.layout);
    const auto visit = [&](int64_t row, const uint8_t* stored, LoadWorkers::Scratch& scratch) {
      scratch.codes.resize(static_cast<size_t>(k));
      if (!i2s::unpack(stored, 0, k, scratch.codes.data())) {
        fail(tensor, "holds a code that no weight has; is it from an ARM build of bitnet.cpp?");
      }
      matrix.set_codes(place(row, request.head_dim), scratch.codes.data());
      return true;
    };
    for_each_row(request, tensor, workers, visit);
    std::vector<uint8_t> tail;
    read(tensor, tensor.bytes - i2s::kTailBytes, i2s::kTailBytes, tail);
    const float scale = i2s::load_scale(tail.data(), 0, 0);
    if (!std::isfinite(scale) || scale < 0) fail(tensor, "its scale is negative or not finite");
    matrix.set_scale(scale);
    return matrix;
  }

  Matrix iq2_bn_matrix(const MatrixRequest& request, const GgufTensor& tensor,
                       LoadWorkers& workers) const {
    const int64_t k = request.columns;
    Matrix matrix = Matrix::ternary(request.rows, k, request.layout);
    std::vector<float> scales(static_cast<size_t>(request.rows));
    const auto visit = [&](int64_t row, const uint8_t* stored, LoadWorkers::Scratch& scratch) {
      scratch.codes.resize(static_cast<size_t>(k));
      if (!iq2_bn::unpack_row(stored, k, scratch.codes.data(), scales[row])) {
        fail(tensor, "holds a code that no weight has");
      }
      if (!std::isfinite(scales[row]) || scales[row] < 0) {
        fail(tensor, "a row's scale is negative or not finite");
      }
      matrix.set_codes(place(row, request.head_dim), scratch.codes.data());
      return true;
    };
    for_each_row(request, tensor, workers, visit);
    std::optional<Matrix> common = with_one_scale(std::move(matrix), scales);
    if (!common) fail(tensor, "its rows have different scales, only one per tensor can be run");
    return std::move(*common);
  }

  Matrix dense_matrix(const MatrixRequest& request, const GgufTensor& tensor,
                      LoadWorkers& workers) const {
    const GgufType type = type_of(tensor);
    if (!can_dequantize(type)) {
      fail(tensor, std::string("the type ") + tensor.type->name + " cannot be run");
    }
    const std::optional<DenseType> same = dense_type(type);
    const bool is_widened = can_widen_to_q8_0(type);
    const int64_t k = request.columns;
    Matrix matrix = Matrix::dense(request.rows, k,
                                  same.value_or(is_widened ? DenseType::q8_0 : DenseType::f32));
    const auto visit = [&](int64_t row, const uint8_t* stored, LoadWorkers::Scratch&) {
      uint8_t* target = matrix.row(place(row, request.head_dim));
      if (same) {
        std::memcpy(target, stored, static_cast<size_t>(matrix.row_bytes()));
      } else if (!(is_widened ? widen_to_q8_0(type, stored, k, target)
                              : dequantize(type, stored, k, reinterpret_cast<float*>(target)))) {
        fail(tensor, "a block's scale is not finite, or its codes are invalid");
      }
      return true;
    };
    for_each_row(request, tensor, workers, visit);
    if (!same && !is_widened) ++dequantized_[tensor.type->name];
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
