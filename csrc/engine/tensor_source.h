// Where weights come from: a directory of safetensors or a GGUF file, both under the names of
// Hugging Face checkpoints ("model.layers.0.self_attn.q_proj.weight").
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "file.h"
#include "load_workers.h"
#include "matrix.h"

namespace wf::engine {

class GgufFile;

struct MatrixRequest {
  std::string name;
  int64_t rows = 0;
  int64_t columns = 0;
  bool may_be_ternary = false;  // a converted linear layer, not an embedding or a head
  int64_t head_dim = 0;         // of the rows of q_proj and k_proj, 0 for other matrices
  TernaryLayout layout = TernaryLayout::t2;  // of a ternary matrix
};

// Where a tensor's bytes are, and what they say.
struct StoredTensor {
  const File& file;
  uint64_t offset;
  uint64_t bytes;
  std::string type;
  std::vector<int64_t> shape;
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  virtual bool has(const std::string& name) const = 0;
  // Names of all tensors, to find those nobody asked for.
  virtual std::vector<std::string> names() const = 0;
  virtual StoredTensor stored(const std::string& name) const = 0;
  // Both throw FormatError when the tensor has another shape or a type that cannot be read.
  virtual Matrix matrix(const MatrixRequest& request, LoadWorkers& workers) const = 0;
  virtual std::vector<float> vector(const std::string& name, int64_t size,
                                    int64_t head_dim) const = 0;
  // What was changed on the way in, one line each ("12 Q4_1 tensors run as float32").
  virtual std::vector<std::string> notes() const = 0;
};

// `masters_are_ternary`: matrices that may be ternary are quantized by absmean on the way in.
// `packed`: they are packed codes with a scale, as in transformers' BitNet checkpoints, or masters.
std::unique_ptr<TensorSource> open_safetensors(const std::string& directory,
                                               bool masters_are_ternary,
                                               PackedScale packed = PackedScale::none);
// `interleaved_rope`: rows of q_proj and k_proj are in llama.cpp's order for rotating neighbours
// and are put back in the order of Hugging Face checkpoints. `file` must outlive the source.
std::unique_ptr<TensorSource> open_gguf(const GgufFile& file, bool interleaved_rope);

}  // namespace wf::engine
