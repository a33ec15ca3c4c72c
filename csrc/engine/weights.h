// All weights of a model, in the order they are used.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config.h"
#include "load_workers.h"
#include "matrix.h"
#include "tensor_source.h"

namespace wf::engine {

struct LayerWeights {
  std::vector<float> attn_norm;
  Matrix q, k, v, o;
  std::vector<float> q_norm, k_norm;  // [head_dim], or empty
  std::vector<float> ffn_norm;
  Matrix gate, up, down;
};

struct Weights {
  Matrix embedding;
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;
  std::optional<Matrix> untied_head;
  std::vector<float> rope_frequencies;  // [head_dim / 2]
  std::vector<std::string> notes;

  const Matrix& head() const { return untied_head ? *untied_head : embedding; }
  std::vector<const Matrix*> matrices() const;
};

struct WeightOptions {
  bool act_quant = true;  // false: ternary matrices multiply float32 activations
  TernaryLayout layout = TernaryLayout::t2;
};

// Reads everything `config` needs. Throws ModelError listing all tensors that are missing, or that
// no part of the model uses.
Weights load_weights(const ModelConfig& config, const TensorSource& source,
                     const WeightOptions& options, const std::string& path, LoadWorkers& workers);

}  // namespace wf::engine
