#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "error.h"

namespace wf::engine {

namespace {

// Tokens less likely than the best by this factor (in nats, after temperature) are never drawn: all
// of a large vocabulary together weigh less than a rounding of float32.
constexpr float kNegligible = 28.0f;
constexpr int kMaxTopLogprobs = 64;

void check(bool is_valid, const char* problem) {
  if (!is_valid) throw ModelError(problem);
}

bool is_better(const TokenLogit& a, const TokenLogit& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

int32_t argmax(const float* logits, int64_t vocab) {
  int64_t best = 0;
  for (int64_t i = 1; i < vocab; ++i) {
    if (logits[i] > logits[best]) best = i;
  }
  return static_cast<int32_t>(best);
}

bool is_allowed(const std::vector<uint32_t>& words, int64_t token) {
  const auto word = static_cast<size_t>(token / 32);
  return word < words.size() && (words[word] >> (token % 32) & 1) != 0;
}

bool is_any_allowed(const std::vector<uint32_t>& words, int64_t vocab) {
  for (int64_t i = 0; i < vocab; ++i) {
    if (is_allowed(words, i)) return true;
  }
  return false;
}

std::vector<TokenLogprob> most_likely(const float* logits, int64_t vocab, int count, float total) {
  std::vector<TokenLogprob> top;  // best first; insertion into a short sorted list
  if (count == 0) return top;
  top.reserve(static_cast<size_t>(count) + 1);
  for (int64_t i = 0; i < vocab; ++i) {
    if (static_cast<int>(top.size()) == count && logits[i] <= top.back().logprob) continue;
    const auto at = std::upper_bound(
        top.begin(), top.end(), logits[i],
        [](float logit, const TokenLogprob& entry) { return logit > entry.logprob; });
    top.insert(at, {static_cast<int32_t>(i), logits[i]});
    if (static_cast<int>(top.size()) > count) top.pop_back();
  }
  for (TokenLogprob& entry : top) entry.logprob -= total;
  return top;
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options) : options_(options) {
  // Written so that a NaN fails too.
  check(options.temperature >= 0 && options.temperature <= 100, "temperature must be 0 to 100");
  check(options.top_k >= 0, "top_k must be 0 (off) or positive");
  check(options.top_p > 0 && options.top_p <= 1, "top_p must be above 0 and at most 1");
  check(options.min_p >= 0 && options.min_p < 1, "min_p must be at least 0 and below 1");
  check(options.repetition_penalty > 0 && options.repetition_penalty <= 100,
        "repetition_penalty must be above 0 and at most 100");
  check(std::fabs(options.presence_penalty) <= 100, "presence_penalty must be -100 to 100");
  check(std::fabs(options.frequency_penalty) <= 100, "frequency_penalty must be -100 to 100");
  check(!options.top_logprobs ||
            (*options.top_logprobs >= 0 && *options.top_logprobs <= kMaxTopLogprobs),
        "top_logprobs must be 0 to 64");
  for (const auto& [token, bias] : options.logit_bias) {
    check(std::fabs(bias) <= 1000, "a logit bias must be -1000 to 1000");
    bias_[token] += bias;
  }
  state_ = options.seed
               ? *options.seed
               : static_cast<uint64_t>(std::random_device{}()) << 32 | std::random_device{}();
}

void Sampler::observe(std::span<const int32_t> tokens) {
  for (const int32_t token : tokens) ++prompt_[token];
}

void Sampler::prepare(int64_t vocab, std::span<const int32_t> drafts) {
  candidates_.reserve(static_cast<size_t>(vocab));
  for (const auto& [token, bias] : bias_) {
    if (token < 0 || token >= vocab) {
      throw ModelError("logit bias for token " + std::to_string(token) +
                       ", but the vocabulary has " + std::to_string(vocab));
    }
  }
  if (!allowed_.empty()) {
    check(drafts.empty(), "drafts cannot be sampled under a rule of allowed tokens");
    check(is_any_allowed(allowed_, vocab), "no token of the vocabulary is allowed");
  }
  std::erase_if(prompt_,
                [&](const auto& entry) { return entry.first < 0 || entry.first >= vocab; });
  adjusted_.clear();
  const auto add = [&](const auto& tokens) {
    for (const auto& entry : tokens) adjusted_.push_back(entry.first);
  };
  const bool has_repetition = options_.repetition_penalty != 1.0f;
  add(bias_);
  if (has_repetition) add(prompt_);
  if (has_repetition || options_.presence_penalty != 0 || options_.frequency_penalty != 0) {
    add(generated_);
    adjusted_.insert(adjusted_.end(), drafts.begin(), drafts.end());
  }
  std::sort(adjusted_.begin(), adjusted_.end());
  adjusted_.erase(std::unique(adjusted_.begin(), adjusted_.end()), adjusted_.end());
}

float Sampler::adjusted(int32_t token, float logit) const {
  if (const auto bias = bias_.find(token); bias != bias_.end()) logit += bias->second;
  const auto generated = generated_.find(token);
  if (generated != generated_.end() || prompt_.contains(token)) {
    logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
  }
  if (generated != generated_.end()) {
    logit -= options_.presence_penalty +
             options_.frequency_penalty * static_cast<float>(generated->second);
  }
  return logit;
}

void Sampler::forbid(float* logits, int64_t vocab) const {
  if (allowed_.empty()) return;
  for (int64_t i = 0; i < vocab; ++i) {
    if (!is_allowed(allowed_, i)) logits[i] = -std::numeric_limits<float>::infinity();
  }
}

float Sampler::largest_drop() const {
  // min-p is a bound on the logit itself: p_i / p_max = e^((l_i - l_max) / temperature).
  const float nats =
      options_.min_p > 0 ? std::min(kNegligible, -std::log(options_.min_p)) : kNegligible;
  return nats * options_.temperature;
}

HeadNeed Sampler::need() const {
  HeadNeed need{.all = false, .top = 1, .within = 0, .always = adjusted_};
  if (options_.top_logprobs || !allowed_.empty()) {
    need.all = true;
  } else if (options_.temperature == 0) {
    // the largest
  } else if (options_.top_k > 0) {
    need.top = options_.top_k;
  } else if (options_.min_p > 0) {
    need.within = largest_drop();
  } else {
    need.all = true;
  }
  return need;
}

Sampled Sampler::sample(float* logits, int64_t vocab, const KernelTable& kernels) {
  Sampled sampled;
  const float total = kernels.log_sum_exp(logits, vocab);
  sampled.is_finite = std::isfinite(total);
  if (!sampled.is_finite) return sampled;
  if (options_.top_logprobs) {
    sampled.top = most_likely(logits, vocab, *options_.top_logprobs, total);
  }
  // A reported log probability is that of the logit before it is adjusted.
  std::vector<float> raw;
  for (const int32_t token : adjusted_) {
    raw.push_back(logits[token]);
    logits[token] = adjusted(token, logits[token]);
  }
  forbid(logits, vocab);
  sampled.token = argmax(logits, vocab);
  if (options_.temperature > 0) {
    const float most = logits[sampled.token];
    const float least = most - largest_drop();
    candidates_.clear();
    for (int64_t i = 0; i < vocab; ++i) {
      if (logits[i] >= least) candidates_.push_back({static_cast<int32_t>(i), logits[i]});
    }
    sampled.token = draw(most);
  }
  if (options_.top_logprobs) {
    const auto at = std::lower_bound(adjusted_.begin(), adjusted_.end(), sampled.token);
    const bool is_adjusted = at != adjusted_.end() && *at == sampled.token;
    sampled.logprob =
        (is_adjusted ? raw[static_cast<size_t>(at - adjusted_.begin())] : logits[sampled.token]) -
        total;
  }
  ++generated_[sampled.token];
  return sampled;
}

Sampled Sampler::sample(std::vector<TokenLogit> likely) {
  Sampled sampled;
  auto next = adjusted_.begin();
  for (TokenLogit& entry : likely) {
    sampled.is_finite &= entry.logit < std::numeric_limits<float>::infinity();
    while (next != adjusted_.end() && *next < entry.token) ++next;
    if (next != adjusted_.end() && *next == entry.token) {
      entry.logit = adjusted(entry.token, entry.logit);
    }
  }
  if (!sampled.is_finite) return sampled;
  const TokenLogit best = *std::min_element(likely.begin(), likely.end(), is_better);
  sampled.token = best.token;
  if (options_.temperature > 0) {
    const float least = best.logit - largest_drop();
    candidates_.clear();
    for (const TokenLogit& entry : likely) {
      if (entry.logit >= least) candidates_.push_back(entry);
    }
    sampled.token = draw(best.logit);
  }
  ++generated_[sampled.token];
  return sampled;
}

int32_t Sampler::draw(float most) {
  if (options_.top_k > 0) {
    const auto top_k = std::min(candidates_.size(), static_cast<size_t>(options_.top_k));
    const auto end = candidates_.begin() + static_cast<int64_t>(top_k);
    std::nth_element(candidates_.begin(), end, candidates_.end(), is_better);
    candidates_.resize(top_k);
    // An order that does not depend on how many candidates there were: the draw goes by it.
    std::sort(candidates_.begin(), candidates_.end(), is_better);
  }
  const size_t kept = options_.top_p < 1 ? cut_top_p(most) : candidates_.size();
  return draw_from(kept, most);
}

// Sorts only as far as the mass asks for, in blocks that double.
size_t Sampler::cut_top_p(float most) {
  const auto weight = [&](const TokenLogit& c) {
    return std::exp(static_cast<double>((c.logit - most) / options_.temperature));
  };
  double total = 0;
  for (const TokenLogit& candidate : candidates_) total += weight(candidate);
  const double wanted = total * static_cast<double>(options_.top_p);
  double mass = 0;
  size_t done = 0;
  for (size_t block = 64; done < candidates_.size(); block *= 2) {
    const size_t end = std::min(candidates_.size(), done + block);
    std::partial_sort(candidates_.begin() + static_cast<int64_t>(done),
                      candidates_.begin() + static_cast<int64_t>(end), candidates_.end(),
                      is_better);
    for (; done < end; ++done) {
      mass += weight(candidates_[done]);
      if (mass >= wanted) return done + 1;
    }
  }
  return candidates_.size();
}

int32_t Sampler::draw_from(size_t kept, float most) {
  weights_.resize(kept);
  double total = 0;
  for (size_t i = 0; i < kept; ++i) {
    total += std::exp(static_cast<double>((candidates_[i].logit - most) / options_.temperature));
    weights_[i] = total;
  }
  const double target = uniform() * total;
  const auto at = std::upper_bound(weights_.begin(), weights_.end(), target);
  const size_t index = std::min(static_cast<size_t>(at - weights_.begin()), kept - 1);
  return candidates_[index].token;
}

// splitmix64, 53 bits.
double Sampler::uniform() {
  state_ += 0x9e3779b97f4a7c15ull;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

}  // namespace wf::engine
