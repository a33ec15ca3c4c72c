#include "weights.h"

#include <cstring>
#include <set>

#include "error.h"

namespace wf::engine {

namespace {

class Loader {
 public:
  Loader(const ModelConfig& config, const TensorSource& source, const WeightOptions& options,
         const std::string& path, LoadWorkers& workers)
      : config_(config), source_(source), options_(options), path_(path), workers_(workers) {}

  Weights load() {
    // All names first: a file that lacks tensors is reported before anything large is read.
    is_dry_run_ = true;
    visit();
    report("tensors are missing", missing_);
    std::set<std::string> unused;
    for (const std::string& name : source_.names()) {
      if (!used_.contains(name) && !name.ends_with("rotary_emb.inv_freq")) unused.insert(name);
    }
    report("tensors that this architecture does not use", unused);
    is_dry_run_ = false;
    Weights weights = visit();
    for (const std::string& name : source_.names()) source_.stored(name).file.check_unchanged();
    workers_.finish();
    weights.notes = source_.notes();
    return weights;
  }

 private:
  void report(const char* what, const std::set<std::string>& names) const {
    if (names.empty()) return;
    std::string text = path_ + ": " + what + ":";
    int listed = 0;
    for (const std::string& name : names) {
      if (++listed > 20) {
        text += " ... (" + std::to_string(names.size()) + " in all)";
        break;
      }
      text += " " + name;
    }
    throw ModelError(text);
  }

  bool want(const std::string& name) {
    used_.insert(name);
    if (!source_.has(name)) missing_.insert(name);
    if (!is_dry_run_) workers_.next_tensor(source_.stored(name).bytes);
    return !is_dry_run_;
  }

  std::vector<float> vector(const std::string& name, int64_t size, int64_t head_dim = 0) {
    return want(name) ? source_.vector(name, size, head_dim) : std::vector<float>();
  }

  // `module`.weight, where the placement puts one there `module`.norm.weight, and where the
  // checkpoint has one `module`.bias.
  Matrix linear(const std::string& module, int64_t rows, int64_t columns, int64_t head_dim = 0) {
    const bool is_converted = config_.is_converted(module);
    Matrix matrix;
    if (want(module + ".weight")) {
      matrix = source_.matrix(
          {module + ".weight", rows, columns, is_converted, head_dim, options_.layout}, workers_);
      matrix.stored_type = source_.stored(module + ".weight").type;
      if (matrix.is_ternary() && !options_.act_quant) matrix.read_floats();
    }
    if (config_.subln == Subln::all && is_converted) {
      matrix.input_norm = vector(module + ".norm.weight", columns);
    }
    if (source_.has(module + ".bias")) matrix.bias = vector(module + ".bias", rows, head_dim);
    return matrix;
  }

  Matrix table(const std::string& name) {
    if (!want(name)) return {};
    return source_.matrix({name, config_.vocab, config_.hidden, false, 0}, workers_);
  }

  LayerWeights layer(int64_t index) {
    const std::string prefix = "model.layers." + std::to_string(index) + ".";
    const std::string attention = prefix + "self_attn.";
    const std::string mlp = prefix + "mlp.";
    const int64_t hidden = config_.hidden;
    const int64_t head_dim = config_.head_dim;
    LayerWeights layer;
    layer.attn_norm = vector(prefix + "input_layernorm.weight", hidden);
    layer.q = linear(attention + "q_proj", config_.q_width(), hidden, head_dim);
    layer.k = linear(attention + "k_proj", config_.kv_width(), hidden, head_dim);
    layer.v = linear(attention + "v_proj", config_.kv_width(), hidden);
    layer.o = linear(attention + "o_proj", hidden, config_.q_width());
    if (config_.has_qk_norm) {
      layer.q_norm = vector(attention + "q_norm.weight", head_dim);
      layer.k_norm = vector(attention + "k_norm.weight", head_dim);
    }
    layer.ffn_norm = vector(prefix + "post_attention_layernorm.weight", hidden);
    layer.gate = linear(mlp + "gate_proj", config_.intermediate, hidden);
    layer.up = linear(mlp + "up_proj", config_.intermediate, hidden);
    layer.down = linear(mlp + "down_proj", hidden, config_.intermediate);
    if (config_.subln == Subln::subln) {
      layer.o.input_norm = vector(attention + "attn_sub_norm.weight", config_.q_width());
      layer.down.input_norm = vector(mlp + "ffn_sub_norm.weight", config_.intermediate);
    }
    return layer;
  }

  // Some checkpoints store the head of a tied model again; it must then be the same matrix. It may
  // be half of the model, so it is compared where it lies.
  void check_repeated_head() {
    const std::string name = "lm_head.weight";
    if (!source_.has(name) || !want(name)) return;
    const StoredTensor head = source_.stored(name);
    const StoredTensor embedding = source_.stored("model.embed_tokens.weight");
    const uint64_t row_bytes = embedding.bytes / static_cast<uint64_t>(config_.vocab);
    const auto is_same = [&](int64_t first, int64_t count, LoadWorkers::Scratch& scratch) {
      const uint64_t begin = static_cast<uint64_t>(first) * row_bytes;
      const uint64_t bytes = static_cast<uint64_t>(count) * row_bytes;
      scratch.bytes.resize(2 * bytes);
      uint8_t* rows = scratch.bytes.data();
      head.file.read(head.offset + begin, rows, bytes, name);
      embedding.file.read(embedding.offset + begin, rows + bytes, bytes, name);
      return std::memcmp(rows, rows + bytes, bytes) == 0;
    };
    if (head.type != embedding.type || head.shape != embedding.shape ||
        !workers_.for_rows(config_.vocab, static_cast<int64_t>(row_bytes), is_same)) {
      throw ModelError(path_ +
                       ": tie_word_embeddings is true, but lm_head.weight differs from the " +
                       "embedding");
    }
  }

  // llama.cpp stores the scaling of Llama 3 as divisors of the frequencies.
  std::vector<float> frequencies() {
    std::vector<float> values = rope_frequencies(config_);
    if (!source_.has("rope_freqs.weight")) return values;
    const std::vector<float> divisors = vector("rope_freqs.weight", config_.head_dim / 2);
    for (size_t i = 0; i < divisors.size(); ++i) values[i] /= divisors[i];
    return values;
  }

  Weights visit() {
    Weights weights;
    weights.embedding = table("model.embed_tokens.weight");
    for (int64_t i = 0; i < config_.layers; ++i) weights.layers.push_back(layer(i));
    weights.final_norm = vector("model.norm.weight", config_.hidden);
    if (config_.is_tied) {
      check_repeated_head();
    } else {
      weights.untied_head = table("lm_head.weight");
    }
    weights.rope_frequencies = frequencies();
    return weights;
  }

  const ModelConfig& config_;
  const TensorSource& source_;
  WeightOptions options_;
  const std::string& path_;
  LoadWorkers& workers_;
  bool is_dry_run_ = true;
  std::set<std::string> used_;
  std::set<std::string> missing_;
};

}  // namespace

std::vector<const Matrix*> Weights::matrices() const {
  std::vector<const Matrix*> all = {&embedding};
  for (const LayerWeights& layer : layers) {
    for (const Matrix* matrix :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      all.push_back(matrix);
    }
  }
  if (untied_head) all.push_back(&*untied_head);
  return all;
}

Weights load_weights(const ModelConfig& config, const TensorSource& source,
                     const WeightOptions& options, const std::string& path, LoadWorkers& workers) {
  return Loader(config, source, options, path, workers).load();
}

}  // namespace wf::engine
