// Weights from a directory of safetensors: float masters, quantized by absmean where asked, or the
// packed codes of transformers' BitNet checkpoints.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "dequantize.h"
#include "dispatch.h"
#include "error.h"
#include "layout/hf_packed.h"
#include "safetensors.h"
#include "tensor_source.h"

namespace wf::engine {

namespace {

constexpr float kMinScale = 1e-5f;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t size : shape)
    text.append(text.empty() ? "[" : ", ").append(std::to_string(size));
  return text.append("]");
}

class SafetensorsSource : public TensorSource {
 public:
  SafetensorsSource(const std::string& directory, bool masters_are_ternary, PackedScale packed)
      : masters_are_ternary_(masters_are_ternary), packed_(packed) {
    for (auto& [name, entry] : read_safetensors_directory(directory)) {
      if (packed_ != PackedScale::none && name.ends_with(kScaleSuffix)) {
        const std::string module = name.substr(0, name.size() - std::string(kScaleSuffix).size());
        scales_[module + ".weight"] = std::move(entry);
      } else if (name.ends_with(kBitnetNormSuffix)) {
        const size_t module = name.size() - std::string(kBitnetNormSuffix).size();
        entries_[name.substr(0, module) + ".norm.weight"] = std::move(entry);
      } else {
        entries_[name] = std::move(entry);
      }
    }
  }

  bool has(const std::string& name) const override { return entries_.contains(name); }

  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const auto& [name, entry] : entries_) names.push_back(name);
    return names;
  }

  StoredTensor stored(const std::string& name) const override {
    const SafetensorsEntry& entry = entries_.at(name);
    return {*entry.file, entry.offset, entry.bytes, entry.dtype, entry.shape};
  }

  Matrix matrix(const MatrixRequest& request, LoadWorkers& workers) const override {
    if (packed_ != PackedScale::none && request.may_be_ternary) {
      return packed_matrix(request, workers);
    }
    const SafetensorsEntry& entry = find(request.name, {request.rows, request.columns});
    if (masters_are_ternary_ && request.may_be_ternary) {
      return ternary_matrix(request, entry, workers);
    }
    Matrix matrix = Matrix::dense(request.rows, request.columns, dense_type(request.name, entry));
    const int64_t row_bytes = matrix.row_bytes();
    workers.for_rows(request.rows, row_bytes, [&](int64_t first, int64_t count, auto&) {
      entry.file->read(entry.offset + static_cast<uint64_t>(first * row_bytes), matrix.row(first),
                       static_cast<uint64_t>(count * row_bytes), request.name);
      return true;
    });
    return matrix;
  }

  std::vector<float> vector(const std::string& name, int64_t size, int64_t) const override {
    const SafetensorsEntry& entry = find(name, {size});
    LoadWorkers::Scratch scratch;
    read_floats(name, entry, 0, size, scratch);
    // AutoBitLinear adds the bias first and multiplies by the scale of the weights then.
    if (packed_ == PackedScale::multiply && name.ends_with(".bias")) {
      const std::string weight = name.substr(0, name.size() - 4) + "weight";
      if (scales_.contains(weight)) {
        const float scale = packed_scale(weight, entries_.at(weight));
        for (float& value : scratch.floats) value *= scale;
      }
    }
    return std::move(scratch.floats);
  }

  std::vector<std::string> notes() const override { return {}; }

 private:
  static constexpr const char* kScaleSuffix = ".weight_scale";
  static constexpr const char* kBitnetNormSuffix = ".rms_norm.weight";

  const SafetensorsEntry& find(const std::string& name, const std::vector<int64_t>& shape) const {
    const SafetensorsEntry& entry = entries_.at(name);
    if (entry.shape != shape) {
      throw FormatError(entry.file->path(), "tensor '" + name + "' has the shape " +
                                                shape_text(entry.shape) + ", config.json needs " +
                                                shape_text(shape));
    }
    return entry;
  }

  DenseType dense_type(const std::string& name, const SafetensorsEntry& entry) const {
    if (entry.dtype == "F32") return DenseType::f32;
    if (entry.dtype == "F16") return DenseType::f16;
    if (entry.dtype == "BF16") return DenseType::bf16;
    throw FormatError(entry.file->path(), "tensor '" + name + "' has the dtype " + entry.dtype +
                                              " (F32, F16 and BF16 are supported)");
  }

  // Elements [first, first + count) of the flat tensor as float32, to scratch.floats.
  void read_floats(const std::string& name, const SafetensorsEntry& entry, int64_t first,
                   int64_t count, LoadWorkers::Scratch& scratch) const {
    const DenseType type = dense_type(name, entry);
    const auto width = static_cast<uint64_t>(Matrix::dense_row_bytes(type, 1));
    scratch.bytes.resize(static_cast<uint64_t>(count) * width);
    scratch.floats.resize(static_cast<size_t>(count));
    entry.file->read(entry.offset + static_cast<uint64_t>(first) * width, scratch.bytes.data(),
                     scratch.bytes.size(), name);
    const GgufType as = type == DenseType::f32   ? GgufType::f32
                        : type == DenseType::f16 ? GgufType::f16
                                                 : GgufType::bf16;
    dequantize(as, scratch.bytes.data(), count, scratch.floats.data());
  }

  // Two passes over the file, some rows at a time, so that the masters are never held.
  Matrix ternary_matrix(const MatrixRequest& request, const SafetensorsEntry& entry,
                        LoadWorkers& workers) const {
    using Scratch = LoadWorkers::Scratch;
    const KernelTable& kernels = active();
    const int64_t k = request.columns;
    const auto for_each_row = [&](auto visit) {
      workers.for_rows(request.rows, 4 * k, [&](int64_t first, int64_t count, Scratch& scratch) {
        read_floats(request.name, entry, first * k, count * k, scratch);
        for (int64_t r = 0; r < count; ++r) visit(first + r, &scratch.floats[r * k], scratch);
        return true;
      });
    };
    // One sum per row, added up in order: the same bits for any number of threads.
    std::vector<double> sums(static_cast<size_t>(request.rows));
    for_each_row([&](int64_t row, const float* weights, Scratch&) {
      sums[row] = kernels.sum_abs(weights, TrainType::f32, k);
    });
    const double sum = std::accumulate(sums.begin(), sums.end(), 0.0);
    if (!std::isfinite(sum)) {
      throw FormatError(entry.file->path(),
                        "tensor '" + request.name + "' holds a NaN or infinity");
    }
    const double count = static_cast<double>(request.rows) * static_cast<double>(k);
    const float scale = std::max(static_cast<float>(sum / count), kMinScale);
    Matrix matrix = Matrix::ternary(request.rows, k, request.layout);
    matrix.set_scale(scale);
    for_each_row([&](int64_t row, const float* weights, Scratch& scratch) {
      scratch.codes.resize(static_cast<size_t>(k));
      kernels.ternary_codes(weights, k, scale, scratch.codes.data());
      matrix.set_codes(row, scratch.codes.data());
    });
    return matrix;
  }

  Matrix packed_matrix(const MatrixRequest& request, LoadWorkers& workers) const {
    const int64_t k = request.columns;
    const int64_t packed_rows = hf_packed::packed_rows(request.rows);
    const SafetensorsEntry& entry = find(request.name, {packed_rows, k});
    if (entry.dtype != "U8") {
      throw FormatError(entry.file->path(), "tensor '" + request.name + "' has the dtype " +
                                                entry.dtype + ", packed weights are U8");
    }
    Matrix matrix = Matrix::ternary(request.rows, k, request.layout);
    matrix.set_scale(packed_scale(request.name, entry));
    const auto work = [&](int64_t first, int64_t count, LoadWorkers::Scratch& scratch) {
      scratch.bytes.resize(static_cast<size_t>(count * k));
      scratch.codes.resize(static_cast<size_t>(k));
      entry.file->read(entry.offset + static_cast<uint64_t>(first * k), scratch.bytes.data(),
                       scratch.bytes.size(), request.name);
      for (int64_t r = 0; r < count; ++r) {
        int shift = 0;
        for (int64_t row = first + r; row < request.rows; row += packed_rows, shift += 2) {
          const uint8_t* stored = &scratch.bytes[static_cast<size_t>(r * k)];
          if (!hf_packed::unpack_fields(stored, shift, k, scratch.codes.data())) {
            throw FormatError(entry.file->path(),
                              "tensor '" + request.name + "' holds a code that no weight has");
          }
          matrix.set_codes(row, scratch.codes.data());
        }
      }
      return true;
    };
    workers.for_rows(packed_rows, k, work);
    return matrix;
  }

  float packed_scale(const std::string& name, const SafetensorsEntry& weight) const {
    const auto found = scales_.find(name);
    if (found == scales_.end()) {
      throw FormatError(weight.file->path(), "tensor '" + name + "' has no weight_scale");
    }
    const SafetensorsEntry& entry = found->second;
    if (entry.shape != std::vector<int64_t>{1} && !entry.shape.empty()) {
      throw FormatError(entry.file->path(), "weight_scale of '" + name + "' is not one number");
    }
    LoadWorkers::Scratch scratch;
    read_floats(name, entry, 0, 1, scratch);
    const float stored = scratch.floats[0];
    const float scale =
        packed_ == PackedScale::multiply ? stored : static_cast<float>(1.0 / stored);
    if (!std::isfinite(scale) || !(scale > 0)) {
      throw FormatError(entry.file->path(), "weight_scale of '" + name + "' is not positive");
    }
    return scale;
  }

  std::map<std::string, SafetensorsEntry> entries_;
  std::map<std::string, SafetensorsEntry> scales_;  // by the weight they belong to
  bool masters_are_ternary_;
  PackedScale packed_;
};

}  // namespace

std::unique_ptr<TensorSource> open_safetensors(const std::string& directory,
                                               bool masters_are_ternary, PackedScale packed) {
  return std::make_unique<SafetensorsSource>(directory, masters_are_ternary, packed);
}

}  // namespace wf::engine
