// Attention of a batch: every query head over the keys and values of its sequence.
//
// Positions are taken in spans at fixed places, whose results are merged in order. Where long
// contexts meet few heads, the threads divide the spans too, not only the heads: the same
// arithmetic, so the same bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "config.h"
#include "kernels.h"
#include "thread_pool.h"
#include "token_row.h"

namespace wf::engine {

class Attention {
 public:
  static constexpr int64_t kSpan = 16 * kKvPage;

  Attention(const ModelConfig& config, const KernelTable& kernels, ThreadPool& pool);

  // Before a job: how its batch will be divided.
  void plan(std::span<const TokenRow> rows);

  // Inside it, ends in a barrier: out = the attention of q in a layer, both [rows, heads *
  // head_dim].
  void run(int64_t layer, const float* q, float* out, int thread);

 private:
  // What one span gives, not yet divided by the sum of the softmax.
  struct Part {
    float* out;  // [heads, head_dim]
    SoftmaxPart* softmax;
  };
  Part part(int64_t index);
  int64_t group() const { return config_.heads / config_.kv_heads; }
  // How many of the heads `head`, head + 1, ... share its keys and values, at most `most`.
  int64_t sharing(int64_t head, int64_t most) const;
  void attend(int64_t layer, const TokenRow& row, int64_t head, int64_t count, int64_t span,
              const float* q, const Part& to) const;
  void attend_heads(int64_t layer, const float* q, float* out, int thread);
  void attend_spans(int64_t layer, const float* q, int thread);
  void merge_spans(float* out, int thread);

  const ModelConfig& config_;
  const KernelTable& kernels_;
  ThreadPool& pool_;
  std::span<const TokenRow> rows_;
  int64_t spans_ = 0;  // of the longest row
  bool is_divided_ = false;
  // Parts of one head: [rows, spans_, heads] when the threads divide the spans; otherwise two for
  // each head of a group, for each thread.
  std::vector<float> outs_;
  std::vector<SoftmaxPart> softmaxes_;
};

}  // namespace wf::engine
