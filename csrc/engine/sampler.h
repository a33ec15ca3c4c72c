// Picks the next token from logits.
//
// Order, as in the OpenAI and Hugging Face interfaces: logit bias, repetition, presence and
// frequency penalties, temperature, then top-k, min-p and top-p cut the distribution, then one
// draw. Log probabilities that are reported are those of the model itself, before all of this.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels.h"

namespace wf::engine {

struct SamplerOptions {
  float temperature = 1.0f;  // 0: the most likely token
  int64_t top_k = 0;         // 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  std::optional<uint64_t> seed;  // none: from the system
  int top_logprobs = 0;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::vector<std::pair<int32_t, float>> logit_bias;
};

struct TokenLogprob {
  int32_t token = -1;
  float logprob = 0;
};

struct Sampled {
  int32_t token = -1;
  float logprob = 0;
  std::vector<TokenLogprob> top;
};

class Sampler {
 public:
  // Throws ModelError when an option is out of range or not finite.
  explicit Sampler(const SamplerOptions& options);

  // Tokens the repetition penalty should know of besides the sampled ones: the prompt.
  void observe(std::span<const int32_t> tokens);

  // Makes room for `vocab` logits, so that sample() need not allocate much. Throws ModelError when
  // a biased token is outside the vocabulary.
  void prepare(int64_t vocab);

  // Changes `logits`. Every one must be finite or -infinity; the step checks the sum.
  Sampled sample(float* logits, int64_t vocab, const KernelTable& kernels);

 private:
  struct Candidate {
    float logit;
    int32_t token;
  };

  void adjust(float* logits) const;
  int32_t draw(const float* logits, int64_t vocab);
  int32_t draw_from(size_t kept, float most);
  size_t cut_top_p(float most);
  double uniform();

  SamplerOptions options_;
  uint64_t state_ = 0;
  std::unordered_map<int32_t, int> generated_;  // token, how often
  std::unordered_map<int32_t, int> prompt_;
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;
};

}  // namespace wf::engine
