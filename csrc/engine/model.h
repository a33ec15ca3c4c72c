// A loaded model and its one operation: a step over any mix of prompt chunks and single tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config.h"
#include "forward.h"
#include "gguf.h"
#include "sampler.h"
#include "sequence.h"
#include "thread_pool.h"
#include "weights.h"

namespace wf::engine {

struct ModelOptions {
  int threads = 0;               // 0: usable_cpus(), fewer for a tiny model
  int64_t context = 0;           // 0: the model's own
  bool act_quant = true;         // false: ternary layers run on float32 activations
  std::string layout = "auto";   // of ternary matrices: auto, t2 or t1
  std::string head = "auto";     // auto, screened or stored; head.h
  std::string kv_cache = "f32";  // f32, f16, bf16 or int8
  OnProgress on_progress;        // told of the bytes read of all tensors
};

enum class LogitsWanted { none, last, all };

struct StepItem {
  Sequence* sequence = nullptr;
  std::vector<int32_t> tokens;
  Sampler* sampler = nullptr;  // samples from the last token's logits
  LogitsWanted logits = LogitsWanted::none;
  // So many of the last tokens are guesses of what the sampler will draw (speculative decoding). It
  // samples behind the token before them, goes on as long as it draws what was guessed, and the
  // sequence forgets the guesses that were wrong: the same tokens as one by one.
  int64_t drafts = 0;
};

struct StepOutput {
  std::vector<Sampled> sampled;  // one, and one for each draft that was right
  std::vector<float> logits;     // [1 or number of tokens, vocab], empty unless wanted
};

class Model {
 public:
  // `path` is an artifact directory or a .gguf file. Throws FormatError or ModelError.
  Model(const std::string& path, const ModelOptions& options);

  const ModelConfig& config() const { return config_; }
  const Weights& weights() const { return *weights_; }
  const KernelTable& kernels() const { return kernels_; }
  int threads() const { return pool_->size(); }
  // The layout of ternary matrices, and why.
  TernaryLayout layout() const { return layout_; }
  const std::string& layout_reason() const { return layout_reason_; }
  const Head& head() const { return forward_->head(); }
  StepProfile& profile() { return forward_->profile(); }
  bool is_gguf() const { return gguf_.has_value(); }
  const GgufFile* gguf() const { return gguf_ ? &*gguf_ : nullptr; }

  std::unique_ptr<Sequence> sequence(int64_t max_tokens) const;
  // One that begins with the first `length` tokens of another and shares their memory.
  std::unique_ptr<Sequence> fork(const Sequence& sequence, int64_t length,
                                 int64_t max_tokens) const;
  KvType kv_type() const { return kv_type_; }

  // Appends each item's tokens to its sequence. All items are checked before anything is computed,
  // and a step that throws leaves every sequence as it was (samplers may have drawn). Long inputs
  // run in chunks; `between_chunks` is called before each and may throw to interrupt. Results do
  // not depend on threads, on the other items, or on how a prompt is cut into steps.
  std::vector<StepOutput> step(std::span<const StepItem> items,
                               const std::function<void()>& between_chunks);

  // One layer on `rows` hidden states at positions 0, 1, ...; at most Forward::kMaxRows.
  LayerTrace trace_layer(int64_t layer, const float* input, int64_t rows);

 private:
  void choose_layout(const ModelOptions& options);
  void check_room(int64_t max_tokens) const;
  void check(std::span<const StepItem> items) const;

  ModelConfig config_;
  const KernelTable& kernels_;
  TernaryLayout layout_ = TernaryLayout::t2;
  std::string layout_reason_;
  KvType kv_type_ = KvType::f32;
  std::optional<GgufFile> gguf_;
  std::optional<Weights> weights_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Forward> forward_;
};

}  // namespace wf::engine
