#include "config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "error.h"

namespace wf::engine {

namespace {

constexpr int64_t kMaxLayers = 512;
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxContext = 1 << 24;

void check_range(const std::string& path, const char* name, int64_t value, int64_t max) {
  if (value < 1 || value > max) {
    throw ModelError(path + ": " + name + " is " + std::to_string(value) + ", allowed are 1 to " +
                     std::to_string(max));
  }
}

void check_positive(const std::string& path, const char* name, double value) {
  if (!std::isfinite(value) || value <= 0) {
    throw ModelError(path + ": " + name + " must be a positive number");
  }
}

}  // namespace

bool ModelConfig::is_converted(const std::string& module) const {
  const auto dotted = [](const std::string& name) { return "." + name + "."; };
  return std::none_of(not_converted.begin(), not_converted.end(), [&](const std::string& name) {
    if (lists_ends) {  // the rule of transformers, without its regular expressions
      const bool is_whole = name.ends_with('.');
      return module.ends_with(name) || (module + ".").starts_with(is_whole ? name : name + ".");
    }
    // A module's name or dotted parts of it: "lm_head", "mlp", "layers.0".
    return dotted(module).find(dotted(name)) != std::string::npos;
  });
}

void validate(const ModelConfig& config, const std::string& path) {
  check_range(path, "hidden size", config.hidden, kMaxWidth);
  check_range(path, "intermediate size", config.intermediate, kMaxWidth);
  check_range(path, "number of layers", config.layers, kMaxLayers);
  check_range(path, "number of heads", config.heads, kMaxWidth);
  check_range(path, "number of key-value heads", config.kv_heads, config.heads);
  check_range(path, "head size", config.head_dim, 1024);
  check_range(path, "vocabulary size", config.vocab, kMaxVocab);
  check_range(path, "context length", config.context, kMaxContext);
  if (config.heads % config.kv_heads != 0) {
    throw ModelError(path + ": " + std::to_string(config.heads) + " heads are not a multiple of " +
                     std::to_string(config.kv_heads) + " key-value heads");
  }
  if (config.head_dim % 2 != 0) {
    throw ModelError(path + ": the head size must be even, it is " +
                     std::to_string(config.head_dim));
  }
  check_range(path, "heads times head size", config.q_width(), kMaxWidth);
  check_positive(path, "RoPE base", config.rope_theta);
  const RopeScaling& scaling = config.rope_scaling;
  check_positive(path, "RoPE scaling factor", scaling.factor);
  check_positive(path, "RoPE original context", scaling.original_context);
  check_positive(path, "RoPE amplitude", scaling.amplitude);
  check_positive(path, "RoPE beta_fast", scaling.beta_fast);
  check_positive(path, "RoPE beta_slow", scaling.beta_slow);
  if (scaling.kind == RopeScaling::Kind::yarn && config.rope_theta == 1) {
    throw ModelError(path + ": YaRN needs a RoPE base other than 1");
  }
  check_positive(path, "RMS norm epsilon", config.rms_eps);
  check_positive(path, "SubLN epsilon", config.subln_eps);
}

namespace {

// YaRN: how far dimension pair i keeps its frequency, 1 (turns often) to 0 (is stretched).
double yarn_kept(const ModelConfig& config, double i) {
  const RopeScaling& scaling = config.rope_scaling;
  const auto pairs_at = [&](double turns) {
    return static_cast<double>(config.head_dim) *
           std::log(scaling.original_context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(config.rope_theta));
  };
  double low = pairs_at(scaling.beta_fast);
  double high = pairs_at(scaling.beta_slow);
  if (scaling.rounds_range) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(config.head_dim - 1));
  if (low == high) high += 0.001;
  return 1 - std::clamp((i - low) / (high - low), 0.0, 1.0);
}

}  // namespace

std::vector<float> rope_frequencies(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  std::vector<float> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    // float32 at the same places as transformers, so that angles of late positions agree.
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.head_dim);
    double frequency = 1.0f / std::pow(static_cast<float>(config.rope_theta), exponent);
    if (scaling.kind == RopeScaling::Kind::linear) {
      frequency /= scaling.factor;
    } else if (scaling.kind == RopeScaling::Kind::llama3) {
      // Long wavelengths are stretched, short ones kept, those between blended.
      const double turns = scaling.original_context * frequency / (2 * std::numbers::pi);
      const double blend =
          (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
      const double kept = blend < 0 ? 0 : (blend > 1 ? 1 : blend);
      frequency = kept * frequency + (1 - kept) * frequency / scaling.factor;
    } else if (scaling.kind == RopeScaling::Kind::yarn) {
      const double kept = yarn_kept(config, static_cast<double>(i));
      frequency = kept * frequency + (1 - kept) * frequency / scaling.factor;
    }
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

}  // namespace wf::engine
