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

#include "head.h"
#include "kernels.h"

namespace wf::engine {

struct SamplerOptions {
  float temperature = 1.0f;  // 0: the most likely token
  int64_t top_k = 0;         // 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  std::optional<uint64_t> seed;     // none: from the system
  std::optional<int> top_logprobs;  // report log probabilities, and those of so many best tokens
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
  float logprob = 0;  // only where log probabilities are asked for
  std::vector<TokenLogprob> top;
  bool is_finite = true;  // false: logits were NaN or infinite, and the token means nothing
};

class Sampler {
 public:
  // Throws ModelError when an option is out of range or not finite.
  explicit Sampler(const SamplerOptions& options);

  // Tokens the repetition penalty should know of besides the sampled ones: the prompt.
  void observe(std::span<const int32_t> tokens);

  // From now on only tokens whose bit is set are drawn: token i is bit i % 32 of word i / 32, and
  // one beyond the last word is not drawn. No words: every token. What is reported of the model's
  // own probabilities stays as it is.
  void allow(std::vector<uint32_t> words) { allowed_ = std::move(words); }

  // Makes room for `vocab` logits, so that sample() need not allocate much; `drafts` may be sampled
  // before the next call. Throws ModelError when a biased token is outside the vocabulary, when no
  // token is allowed, or when drafts meet a rule that was made for one token.
  void prepare(int64_t vocab, std::span<const int32_t> drafts = {});

  // Which logits the next sample needs; valid until the next call on this object.
  HeadNeed need() const;

  // From all logits, or from those that need() asks for: the same token. Changes `logits`.
  Sampled sample(float* logits, int64_t vocab, const KernelTable& kernels);
  Sampled sample(std::vector<TokenLogit> likely);

 private:
  float adjusted(int32_t token, float logit) const;
  void forbid(float* logits, int64_t vocab) const;
  // Of logits below the largest by this or less, one is drawn.
  float largest_drop() const;
  int32_t draw(float most);
  int32_t draw_from(size_t kept, float most);
  size_t cut_top_p(float most);
  double uniform();

  SamplerOptions options_;
  uint64_t state_ = 0;
  std::unordered_map<int32_t, int> generated_;  // token, how often
  std::unordered_map<int32_t, int> prompt_;
  std::unordered_map<int32_t, float> bias_;
  std::vector<uint32_t> allowed_;
  std::vector<int32_t> adjusted_;  // tokens whose logits change before the draw, ascending
  std::vector<TokenLogit> candidates_;
  std::vector<double> weights_;
};

}  // namespace wf::engine
