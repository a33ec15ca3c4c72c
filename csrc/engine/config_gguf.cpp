// ModelConfig from GGUF metadata.
#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <optional>

#include "config.h"
#include "error.h"
#include "gguf.h"

namespace wf::engine {

namespace {

constexpr int64_t kSchema = 1;  // of the `wrinklefree.*` keys

struct Architecture {
  const char* name;    // as in general.architecture, in small letters
  const char* family;  // ModelConfig::architecture
  Activation activation;
  Subln subln;
  bool has_qk_norm;
};

// `bitnet` is mainline llama.cpp's graph (SiLU), the next three are names of bitnet.cpp's (squared
// ReLU). The last is what wf-convert calls a model that none of them is: its own keys say the rest.
constexpr const char* kOwn = "wrinklefree";
constexpr std::array<Architecture, 8> kArchitectures = {{
    {"llama", "llama", Activation::silu, Subln::none, false},
    {"qwen2", "qwen2", Activation::silu, Subln::none, false},
    {"qwen3", "qwen3", Activation::silu, Subln::none, true},
    {"bitnet", "bitnet", Activation::silu, Subln::subln, false},
    {"bitnet-b1.58", "bitnet", Activation::relu2, Subln::subln, false},
    {"bitnet-25", "bitnet", Activation::relu2, Subln::subln, false},
    {"bitnet-b158", "bitnet", Activation::relu2, Subln::subln, false},
    {kOwn, kOwn, Activation::silu, Subln::none, false},
}};

class GgufReader {
 public:
  explicit GgufReader(const GgufFile& file) : file_(file) {}

  [[noreturn]] void fail(const std::string& problem) const {
    throw ModelError(file_.file().path() + ": " + problem);
  }

  std::optional<GgufScalar> find(const std::string& key) const {
    const GgufValue* value = file_.find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_array) fail("'" + key + "' is a list, one value is needed");
    return value->item(0);
  }

  std::string text(const std::string& key) const {
    const auto value = find(key);
    if (!value || !std::holds_alternative<std::string>(*value)) {
      fail("'" + key + "' is missing or not a string");
    }
    return std::get<std::string>(*value);
  }

  std::vector<std::string> texts_or_none(const std::string& key) const {
    const GgufValue* value = file_.find(key);
    if (value == nullptr) return {};
    const auto* texts = std::get_if<std::vector<std::string>>(&value->items);
    if (texts != nullptr && value->is_array) return *texts;
    if (value->is_array && value->size() == 0) return {};
    fail("'" + key + "' must be a list of strings");
  }

  int64_t integer(const std::string& key) const {
    const auto value = find(key);
    if (!value) {
      missing_ += (missing_.empty() ? "" : ", ") + key;
      return 1;  // validate() never sees it: report_missing() throws first
    }
    if (const auto* number = std::get_if<uint64_t>(&*value);
        number != nullptr && *number <= INT64_MAX) {
      return static_cast<int64_t>(*number);
    }
    if (const auto* number = std::get_if<int64_t>(&*value)) return *number;
    fail("'" + key + "' must be an integer");
  }
  int64_t integer_or(const std::string& key, int64_t fallback) const {
    return find(key) ? integer(key) : fallback;
  }

  double number(const std::string& key) const {
    const auto value = find(key);
    if (!value) {
      missing_ += (missing_.empty() ? "" : ", ") + key;
      return 1;
    }
    if (!std::holds_alternative<double>(*value)) fail("'" + key + "' must be a float");
    return std::get<double>(*value);
  }
  double number_or(const std::string& key, double fallback) const {
    return find(key) ? number(key) : fallback;
  }

  void report_missing() const {
    if (!missing_.empty()) fail("metadata keys are missing: " + missing_);
  }

 private:
  const GgufFile& file_;
  mutable std::string missing_;  // all of them, so that one run shows what to add
};

const Architecture& find_architecture(const GgufReader& reader, const std::string& name) {
  std::string lower = name.substr(0, 64);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (lower == architecture.name) return architecture;
    known += (known.empty() ? "" : ", ") + std::string(architecture.name);
  }
  reader.fail("architecture '" + lower + "' is not supported (" + known + " are)");
}

void check_schema(const GgufReader& reader) {
  const int64_t schema = reader.integer_or("wrinklefree.schema", kSchema);
  if (schema < 1 || schema > kSchema) {
    reader.fail("needs a version of wrinklefree that reads schema " + std::to_string(schema) +
                " (this one reads " + std::to_string(kSchema) + ")");
  }
}

// What a file of our own architecture says of itself.
void read_own(const GgufReader& reader, ModelConfig& config) {
  const std::string type = reader.text("wrinklefree.model_type");
  if (type != "llama" && type != "qwen2" && type != "qwen3") {
    reader.fail("wrinklefree.model_type '" + type + "' is not supported (llama, qwen2, qwen3 are)");
  }
  config.has_qk_norm = type == "qwen3";
  const std::string activation = reader.text("wrinklefree.hidden_act");
  if (activation != "silu" && activation != "relu2") {
    reader.fail("wrinklefree.hidden_act '" + activation + "' is not supported (silu, relu2 are)");
  }
  config.activation = activation == "silu" ? Activation::silu : Activation::relu2;
  const std::string subln = reader.text("wrinklefree.subln");
  if (subln != "none" && subln != "subln" && subln != "all") {
    reader.fail("wrinklefree.subln '" + subln + "' is not supported (none, subln, all are)");
  }
  config.subln = subln == "none" ? Subln::none : subln == "all" ? Subln::all : Subln::subln;
}

void read_rope(const GgufReader& reader, const std::string& prefix, ModelConfig& config) {
  config.rope_theta = reader.number_or(prefix + "rope.freq_base", 10000.0);
  const int64_t rotated = reader.integer_or(prefix + "rope.dimension_count", config.head_dim);
  if (rotated != config.head_dim) {
    reader.fail("rotary dimensions (" + std::to_string(rotated) + ") other than the head size (" +
                std::to_string(config.head_dim) + ") are not supported");
  }
  if (!reader.find(prefix + "rope.scaling.type")) return;
  const std::string kind = reader.text(prefix + "rope.scaling.type");
  if (kind == "none") return;
  RopeScaling& scaling = config.rope_scaling;
  scaling.factor = reader.number(prefix + "rope.scaling.factor");
  if (kind == "linear") {
    scaling.kind = RopeScaling::Kind::linear;
  } else if (kind == "yarn") {
    scaling.kind = RopeScaling::Kind::yarn;
    scaling.original_context =
        static_cast<double>(reader.integer(prefix + "rope.scaling.original_context_length"));
    scaling.beta_fast = reader.number_or(prefix + "rope.scaling.yarn_beta_fast", scaling.beta_fast);
    scaling.beta_slow = reader.number_or(prefix + "rope.scaling.yarn_beta_slow", scaling.beta_slow);
    // llama.cpp multiplies a factor of the file with the one of the paper.
    const double grown = scaling.factor <= 1 ? 1 : 0.1 * std::log(scaling.factor) + 1;
    scaling.amplitude = grown * reader.number_or(prefix + "rope.scaling.attn_factor", 1.0);
  } else {
    reader.fail("RoPE scaling '" + kind + "' is not supported (none, linear and yarn are)");
  }
}

}  // namespace

ModelConfig read_gguf_config(const GgufFile& file) {
  const GgufReader reader(file);
  check_schema(reader);
  const std::string name = reader.text("general.architecture");
  const Architecture& architecture = find_architecture(reader, name);
  const std::string prefix = name + ".";
  ModelConfig config;
  config.architecture = architecture.family;
  config.activation = architecture.activation;
  config.subln = architecture.subln;
  config.has_qk_norm = architecture.has_qk_norm;
  if (config.architecture == kOwn) read_own(reader, config);
  config.interleaves_qk = config.architecture == "llama";
  config.not_converted = reader.texts_or_none("wrinklefree.modules_to_not_convert");
  config.hidden = reader.integer(prefix + "embedding_length");
  config.intermediate = reader.integer(prefix + "feed_forward_length");
  config.layers = reader.integer(prefix + "block_count");
  config.heads = reader.integer(prefix + "attention.head_count");
  config.kv_heads = reader.integer_or(prefix + "attention.head_count_kv", config.heads);
  config.context = reader.integer(prefix + "context_length");
  config.rms_eps = static_cast<float>(reader.number(prefix + "attention.layer_norm_rms_epsilon"));
  config.subln_eps =
      static_cast<float>(reader.number_or("wrinklefree.subln_epsilon", config.rms_eps));
  reader.report_missing();
  if (config.heads < 1) reader.fail("'" + prefix + "attention.head_count' must be positive");
  config.head_dim =
      reader.integer_or(prefix + "attention.key_length", config.hidden / config.heads);
  if (reader.integer_or(prefix + "attention.value_length", config.head_dim) != config.head_dim) {
    reader.fail("key and value heads of different sizes are not supported");
  }
  read_rope(reader, prefix, config);
  reader.report_missing();
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr) reader.fail("tensor 'token_embd.weight' is missing");
  config.vocab = embedding->rows();
  config.is_tied = file.find_tensor("output.weight") == nullptr;
  const GgufValue* tokens = file.find("tokenizer.ggml.tokens");
  if (tokens != nullptr && static_cast<int64_t>(tokens->size()) > config.vocab) {
    reader.fail(std::to_string(tokens->size()) + " tokens, but only " +
                std::to_string(config.vocab) + " embedding rows");
  }
  validate(config, file.file().path());
  return config;
}

}  // namespace wf::engine
