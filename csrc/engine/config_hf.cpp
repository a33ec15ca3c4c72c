// ModelConfig from a Hugging Face config.json.
#include <cmath>

#include "config.h"
#include "error.h"
#include "json.h"

namespace wf::engine {

namespace {

class HfReader {
 public:
  HfReader(const Json& json, std::string path) : json_(json), path_(std::move(path)) {}

  [[noreturn]] void fail(const std::string& problem) const {
    throw ModelError(path_ + ": " + problem);
  }

  // The member, or null when absent or null.
  static const Json* member(const Json& object, const char* key) {
    const Json* value = object.find(key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }
  const Json* member(const char* key) const { return member(json_, key); }

  int64_t integer(const char* key) const {
    const Json* value = member(key);
    if (value == nullptr) fail(std::string("'") + key + "' is missing");
    if (!value->is_integer()) fail(std::string("'") + key + "' must be an integer");
    return value->integer();
  }
  int64_t integer_or(const char* key, int64_t fallback) const {
    return member(key) == nullptr ? fallback : integer(key);
  }
  double number(const Json& object, const char* key) const {
    const Json* value = member(object, key);
    if (value == nullptr || !value->is_number())
      fail(std::string("'") + key + "' must be a number");
    return value->number();
  }
  double number_or(const Json& object, const char* key, double fallback) const {
    return member(object, key) == nullptr ? fallback : number(object, key);
  }
  std::string text(const Json& object, const char* key, const std::string& fallback) const {
    const Json* value = member(object, key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) fail(std::string("'") + key + "' must be a string");
    return value->string();
  }
  bool flag(const char* key, bool fallback) const { return flag(json_, key, fallback); }
  bool flag(const Json& object, const char* key, bool fallback) const {
    const Json* value = member(object, key);
    if (value == nullptr) return fallback;
    if (!value->is_bool()) fail(std::string("'") + key + "' must be true or false");
    return value->boolean();
  }

  const Json& json() const { return json_; }

 private:
  const Json& json_;
  std::string path_;
};

// 0.1 ln(factor) + 1 (equation 22 of YaRN); DeepSeek divides two of these.
void read_yarn_amplitude(const HfReader& reader, const Json& parameters, RopeScaling& scaling) {
  const auto grown = [&](double by) {
    return scaling.factor <= 1 ? 1.0 : 0.1 * by * std::log(scaling.factor) + 1;
  };
  const double numerator = reader.number_or(parameters, "mscale", 0);
  const double denominator = reader.number_or(parameters, "mscale_all_dim", 0);
  const double natural =
      numerator != 0 && denominator != 0 ? grown(numerator) / grown(denominator) : grown(1);
  scaling.amplitude = reader.number_or(parameters, "attention_factor", natural);
}

void read_rope(const HfReader& reader, ModelConfig& config) {
  // transformers 5 writes rope_parameters; before, rope_theta and rope_scaling.
  const Json* parameters = reader.member("rope_parameters");
  if (parameters == nullptr) parameters = reader.member("rope_scaling");
  const Json* holder = parameters;
  if (holder == nullptr || HfReader::member(*holder, "rope_theta") == nullptr) {
    holder = &reader.json();
  }
  if (HfReader::member(*holder, "rope_theta") != nullptr) {
    config.rope_theta = reader.number(*holder, "rope_theta");
  } else if (config.architecture == "bitnet") {
    reader.fail("'rope_theta' is missing");  // its class has another default than Llama's
  }
  if (parameters == nullptr) return;
  const std::string kind =
      reader.text(*parameters, "rope_type", reader.text(*parameters, "type", "default"));
  RopeScaling& scaling = config.rope_scaling;
  if (kind == "default") return;
  if (kind == "linear") {
    scaling.kind = RopeScaling::Kind::linear;
  } else if (kind == "llama3") {
    scaling.kind = RopeScaling::Kind::llama3;
    scaling.low_freq_factor = reader.number(*parameters, "low_freq_factor");
    scaling.high_freq_factor = reader.number(*parameters, "high_freq_factor");
    scaling.original_context = reader.number(*parameters, "original_max_position_embeddings");
    if (!(scaling.high_freq_factor > scaling.low_freq_factor)) {
      reader.fail("'high_freq_factor' must be above 'low_freq_factor'");
    }
  } else if (kind == "yarn") {
    scaling.kind = RopeScaling::Kind::yarn;
    scaling.original_context = reader.number(*parameters, "original_max_position_embeddings");
    scaling.beta_fast = reader.number_or(*parameters, "beta_fast", scaling.beta_fast);
    scaling.beta_slow = reader.number_or(*parameters, "beta_slow", scaling.beta_slow);
    scaling.rounds_range = reader.flag(*parameters, "truncate", true);
  } else {
    reader.fail("RoPE scaling '" + kind +
                "' is not supported (default, linear, llama3 and yarn are)");
  }
  scaling.factor = reader.number(*parameters, "factor");
  if (scaling.kind == RopeScaling::Kind::yarn) read_yarn_amplitude(reader, *parameters, scaling);
}

void read_not_converted(const HfReader& reader, const Json& json, ModelConfig& config) {
  const Json* modules = HfReader::member(json, "modules_to_not_convert");
  if (modules == nullptr) return;
  if (!modules->is_array()) reader.fail("'modules_to_not_convert' must be a list");
  for (const Json& name : modules->array()) {
    if (!name.is_string()) reader.fail("'modules_to_not_convert' must be a list of strings");
    config.not_converted.push_back(name.string());
  }
}

// A BitNet checkpoint of transformers. Entries that are absent have the library's defaults.
void read_bitnet(const HfReader& reader, const Json& json, ModelConfig& config) {
  const std::string linear_class = reader.text(json, "linear_class", "bitlinear");
  const std::string mode = reader.text(json, "quantization_mode", "offline");
  if (linear_class != "bitlinear" && linear_class != "autobitlinear") {
    reader.fail("linear_class '" + linear_class +
                "' is not supported (autobitlinear and bitlinear are)");
  }
  if (mode != "offline" && mode != "online") {
    reader.fail("quantization_mode '" + mode + "' is not supported (offline and online are)");
  }
  if (linear_class == "bitlinear") {
    config.packed = PackedScale::divide;
  } else if (mode == "offline") {
    config.packed = PackedScale::multiply;
  } else {
    config.is_ternary_artifact = true;
  }
  if (reader.flag(json, "use_rms_norm", false)) {
    if (config.subln != Subln::none) {
      reader.fail("sub-norms and 'use_rms_norm' together are not supported");
    }
    config.subln = Subln::all;
    config.subln_eps = static_cast<float>(reader.number_or(json, "rms_norm_eps", 1e-6));
  }
  read_not_converted(reader, json, config);
  config.lists_ends = true;
}

void read_quantization(const HfReader& reader, ModelConfig& config) {
  const Json* json = reader.member("quantization_config");
  if (json == nullptr) return;
  const std::string method = reader.text(*json, "quant_method", "");
  if (method == "bitnet") return read_bitnet(reader, *json, config);
  if (method != "wrinklefree") {
    reader.fail("quantization method '" + method +
                "' is not supported (wrinklefree and bitnet are; convert the model first)");
  }
  const std::string scheme = reader.text(*json, "scheme", "");
  if (scheme != "ternary") reader.fail("scheme '" + scheme + "' is not supported (ternary is)");
  const double lambda = reader.number(*json, "lambda");
  if (lambda != 1.0) {
    reader.fail("lambda is " + std::to_string(lambda) +
                ": the model is still partly unquantized; train on to lambda 1, or use wf-eval");
  }
  const std::string subln = reader.text(*json, "subln", "");
  if (subln == "none") {
    config.subln = Subln::none;
  } else if (subln == "subln") {
    config.subln = Subln::subln;
  } else if (subln == "all") {
    config.subln = Subln::all;
  } else {
    reader.fail("SubLN placement '" + subln + "' is not supported (subln, all and none are)");
  }
  config.is_ternary_artifact = true;
  if (HfReader::member(*json, "subln_eps") != nullptr) {
    config.subln_eps = static_cast<float>(reader.number(*json, "subln_eps"));
  }
  read_not_converted(reader, *json, config);
}

}  // namespace

ModelConfig read_hf_config(const Json& json, const std::string& path) {
  if (!json.is_object()) throw ModelError(path + ": not a JSON object");
  const HfReader reader(json, path);
  ModelConfig config;
  config.architecture = reader.text(json, "model_type", "");
  const std::string& type = config.architecture;
  if (type != "llama" && type != "qwen2" && type != "qwen3" && type != "bitnet") {
    reader.fail("model_type '" + type + "' is not supported (llama, qwen2, qwen3 and bitnet are)");
  }
  config.hidden = reader.integer("hidden_size");
  config.intermediate = reader.integer("intermediate_size");
  config.layers = reader.integer("num_hidden_layers");
  config.heads = reader.integer("num_attention_heads");
  if (type == "bitnet") {  // its class has other defaults than Llama's
    for (const char* key : {"num_key_value_heads", "tie_word_embeddings"}) {
      if (reader.member(key) == nullptr) reader.fail(std::string("'") + key + "' is missing");
    }
  }
  config.kv_heads = reader.integer_or("num_key_value_heads", config.heads);
  if (reader.member("head_dim") == nullptr &&
      (config.heads < 1 || config.hidden % config.heads != 0)) {
    reader.fail(
        "'hidden_size' is not a multiple of 'num_attention_heads' and there is no 'head_dim'");
  }
  config.head_dim =
      reader.integer_or("head_dim", config.heads < 1 ? 0 : config.hidden / config.heads);
  config.vocab = reader.integer("vocab_size");
  config.context = reader.integer("max_position_embeddings");
  config.rms_eps = static_cast<float>(reader.number(json, "rms_norm_eps"));
  config.subln_eps = config.rms_eps;
  config.is_tied = reader.flag("tie_word_embeddings", false);
  config.has_qk_norm = type == "qwen3";
  if (type == "bitnet") config.subln = Subln::subln;
  const std::string activation = reader.text(json, "hidden_act", "");
  if (activation == "relu2") {
    config.activation = Activation::relu2;
  } else if (activation != "silu") {
    reader.fail("hidden_act '" + activation + "' is not supported (silu and relu2 are)");
  }
  if (reader.flag("use_sliding_window", false))
    reader.fail("sliding-window attention is not supported");
  read_rope(reader, config);
  read_quantization(reader, config);
  validate(config, path);
  return config;
}

}  // namespace wf::engine
