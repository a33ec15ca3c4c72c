// A model file that may be anything: it loads and computes two tokens, or says in one line why not.
#pragma once

#include <algorithm>
#include <exception>
#include <string>

#include "error.h"
#include "json.h"
#include "model.h"
#include "target.h"

namespace wf::fuzz {

inline void require_readable(const std::exception& error) {
  const std::string text = error.what();
  require(engine::is_utf8(text), "an error that is not UTF-8");
  require(std::none_of(text.begin(), text.end(),
                       [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; }),
          "an error with a control character: " + text);
}

// Runs `action`, which may throw what the engine throws and nothing else.
template <class Action>
void run_engine(const Action& action) {
  try {
    action();
  } catch (const engine::FormatError& error) {
    require_readable(error);
  } catch (const engine::ModelError& error) {
    require_readable(error);
  }
}

// `variant` picks how the model is to run.
inline void load_and_step(const std::string& path, std::size_t variant) {
  constexpr const char* kLayouts[] = {"auto", "t2", "t1"};
  constexpr const char* kCaches[] = {"f32", "f16", "bf16", "int8"};
  const bool is_screened = variant % 2 == 0;
  engine::ModelOptions options;
  options.threads = 1;
  options.act_quant = variant % 5 != 0;
  options.layout = kLayouts[variant % 3];
  options.head = is_screened ? "screened" : "stored";
  options.kv_cache = kCaches[variant / 2 % 4];
  run_engine([&] {
    engine::Model model(path, options);
    const engine::ModelConfig& config = model.config();
    const auto sequence = model.sequence(std::min<std::int64_t>(config.context, 2));
    std::vector<std::int32_t> tokens = {static_cast<std::int32_t>(config.vocab - 1)};
    if (config.context > 1) tokens.push_back(0);
    engine::SamplerOptions sampling;
    sampling.top_k = 2;
    sampling.seed = 1;
    engine::Sampler sampler(sampling);
    sampler.prepare(config.vocab);
    // All logits are computed where any are wanted.
    const auto wanted = is_screened ? engine::LogitsWanted::none : engine::LogitsWanted::last;
    const engine::StepItem item{sequence.get(), tokens, &sampler, wanted};
    const auto outputs = model.step({&item, 1}, [] {});
    const std::int32_t token = outputs[0].sampled.at(0).token;
    require(token >= 0 && token < config.vocab, "a sampled token outside the vocabulary");
  });
}

}  // namespace wf::fuzz
