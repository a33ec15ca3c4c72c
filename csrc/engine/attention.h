// Attention of a batch: every query head over the keys and values of its sequence.
//
// Positions are taken in spans at fixed places, whose results are merged in order. The rows of a
// prompt take a span one after the other while its keys and values are in the cache. Where long
// contexts meet few heads, the threads divide the spans too, not only the heads. It is the same
// arithmetic always, so the same bits.
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
  static constexpr int64_t kSpan = 8 * kKvPage;  // of 128 dimensions: 256 KiB in float32

  Attention(const ModelConfig& config, const KernelTable& kernels, ThreadPool& pool);

  // Before a job: how its batch will be divided.
  void plan(std::span<const TokenRow> rows);

  // Inside it, ends in a barrier: out = the attention of q in a layer, both [rows, heads *
  // head_dim].
  void run(int64_t layer, const float* q, float* out, int thread);

 private:
  // Heads of one row that share keys and values.
  struct Heads {
    int64_t row;
    int64_t first;
    int64_t count;
  };
  int64_t num_rows() const { return static_cast<int64_t>(rows_.size()); }
  int64_t group() const { return config_.heads / config_.kv_heads; }
  int64_t spans(int64_t row) const { return rows_[static_cast<size_t>(row)].position / kSpan + 1; }
  // Of a head in q and out, and of the softmax of a row's head.
  int64_t place(int64_t row, int64_t head) const { return row * config_.heads + head; }
  void attend(int64_t layer, const Heads& heads, int64_t span, const float* q, float* out,
              SoftmaxPart* softmax) const;
  void attend_heads(int64_t layer, const float* q, float* out, int thread);
  void attend_spans(int64_t layer, const float* q, int thread);
  void merge_spans(float* out, int thread);

  const ModelConfig& config_;
  const KernelTable& kernels_;
  ThreadPool& pool_;
  std::span<const TokenRow> rows_;
  int64_t spans_ = 0;  // of the longest row
  bool is_divided_ = false;
  std::vector<SoftmaxPart> softmaxes_;  // of all positions so far, [rows, heads]
  // What single spans give: [spans_, rows, heads] when the threads divide them, otherwise the last
  // one of each thread, [threads, group].
  std::vector<float> span_outs_;
  std::vector<SoftmaxPart> span_softmaxes_;
};

}  // namespace wf::engine
