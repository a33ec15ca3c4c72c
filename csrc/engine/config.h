// What a model is: sizes, activation, norms, positions. Read from HF config.json or GGUF metadata;
// anything the engine would have to guess or cannot run is refused by name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace wf::engine {

class GgufFile;
class Json;

enum class Activation { silu, relu2 };

// Norms on the inputs of linear layers, beside the two of every layer: before o_proj and down_proj,
// or inside each ternary linear layer.
enum class Subln { none, subln, all };

// What transformers' BitNet layers do with `weight_scale` of packed weights.
enum class PackedScale { none, multiply, divide };

struct RopeScaling {
  enum class Kind { none, linear, llama3, yarn };
  Kind kind = Kind::none;
  double factor = 1.0;
  // Llama 3: wavelengths between original_context / high_freq_factor and / low_freq_factor blend.
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double original_context = 8192;
  // YaRN (Peng et al., arXiv 2309.00071): dimensions that turn between beta_slow and beta_fast
  // times in the original context blend, and cosines and sines grow by `amplitude`.
  double beta_fast = 32;
  double beta_slow = 1;
  bool rounds_range = true;  // to whole dimensions
  double amplitude = 1.0;
};

struct ModelConfig {
  std::string architecture;  // "llama", "qwen2", "qwen3", "bitnet" or "wrinklefree"
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab = 0;
  int64_t context = 0;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  float rms_eps = 1e-5f;
  float subln_eps = 1e-5f;
  Activation activation = Activation::silu;
  Subln subln = Subln::none;
  bool has_qk_norm = false;                // a norm on each head of q and k, before RoPE
  bool is_tied = false;                    // the head is the embedding
  bool interleaves_qk = false;             // q and k rows are in llama.cpp's order
  bool is_ternary_artifact = false;        // float masters whose linear layers run as ternary
  PackedScale packed = PackedScale::none;  // or packed weights of transformers' BitNet
  std::vector<std::string> not_converted;  // modules of the blocks that stay float
  bool lists_ends = false;                 // entries are starts or ends of names, not parts of them

  // Whether the linear layer called `module` of a ternary model is ternary.
  bool is_converted(const std::string& module) const;
  int64_t q_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
};

// `path` names the source in errors. Both throw ModelError or FormatError.
ModelConfig read_hf_config(const Json& json, const std::string& path);
ModelConfig read_gguf_config(const GgufFile& file);

// Throws ModelError unless every size is positive, bounded and consistent with the others.
void validate(const ModelConfig& config, const std::string& path);

// Angle per position of each pair of a head's dimensions, [head_dim / 2], with the scaling applied.
std::vector<float> rope_frequencies(const ModelConfig& config);

}  // namespace wf::engine
