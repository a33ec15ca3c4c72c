// The forward pass: a few token rows through all layers, as one job of the thread pool.
//
// Every phase cuts its work (rows, heads, panels of weight rows) over the threads; a barrier ends
// it. No cut changes the order of a sum, so the bits are the same for any number of threads, any
// batch, and any chunking of a prompt.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "attention.h"
#include "config.h"
#include "head.h"
#include "kernels.h"
#include "step_profile.h"
#include "thread_pool.h"
#include "token_row.h"
#include "weights.h"

namespace wf::engine {

// Takes the logits of one row: all of them, or the likely ones when that is all it needs. One of
// both takes once per wanted row; rows of one group on one thread of the pool, in order.
class LogitsSink {
 public:
  virtual ~LogitsSink() = default;
  virtual HeadNeed need(int32_t output) const noexcept = 0;
  virtual int64_t group(int32_t output) const noexcept = 0;
  virtual void take(int32_t output, float* logits) noexcept = 0;
  virtual void take_likely(int32_t output, std::vector<TokenLogit> likely) noexcept = 0;
};

// What one layer computed, by name: for comparing with another implementation.
struct LayerTrace {
  std::map<std::string, std::vector<float>> floats;  // [rows, width] each
  std::map<std::string, std::vector<int8_t>> codes;  // [rows, width] inputs of ternary products
  std::map<std::string, std::vector<float>> scales;  // [rows], of `codes`
};

class Forward {
 public:
  static constexpr int64_t kMaxRows = 128;  // per call

  Forward(const ModelConfig& config, const Weights& weights, const KernelTable& kernels,
          ThreadPool& pool, bool is_head_screened);

  const Head& head() const { return head_; }
  StepProfile& profile() { return profile_; }

  // Stores keys and values of the rows and hands the wanted logits to `sink`. At most kMaxRows
  // rows, in order of position within a sequence; the sequences have reserved room for them.
  void run(std::span<const TokenRow> rows, LogitsSink& sink);

  // One layer alone, on given inputs [rows, hidden].
  LayerTrace trace_layer(int64_t index, std::span<const TokenRow> rows, const float* input);

 private:
  Range share(int64_t count, int64_t unit, int thread) const {
    return pool_.share(count, unit, thread);
  }
  int64_t num_rows() const { return static_cast<int64_t>(rows_.size()); }

  void embed(int thread);
  void layer(int64_t index, int thread);
  void norm_rows(const std::vector<float>& gain, const float* in, int64_t width,
                 std::initializer_list<const Matrix*> readers, int thread);
  void product(const Matrix& matrix, size_t reader, Range range, int thread, float* out) const;
  void project_heads(const LayerWeights& layer, int thread);
  void place_heads(const LayerWeights& layer, int64_t index, int thread);
  void rotate(float* head, int64_t row) const;
  void gate_up(const LayerWeights& layer, int thread);
  void add_product(const Matrix& matrix, int thread);
  void predict(LogitsSink& sink, int thread);

  void keep_floats(const char* name, int thread, const float* values, int64_t width) const;
  void keep_codes(const char* name, int thread, const Matrix& matrix, size_t reader = 0) const;

  const ModelConfig& config_;
  const Weights& weights_;
  const KernelTable& kernels_;
  ThreadPool& pool_;
  Head head_;
  Attention attention_;
  StepProfile profile_;

  std::span<const TokenRow> rows_;
  LayerTrace* trace_ = nullptr;

  // Activations, [kMaxRows, width] each.
  std::vector<float> hidden_;  // the residual stream
  std::vector<float> q_, k_, v_;
  std::vector<float> attended_;
  std::vector<float> gate_, up_;
  std::vector<float> added_;  // a product before it joins the residual stream
  std::vector<float> cosines_, sines_;

  // What the next products read: floats, and int8 where a ternary matrix reads them. Of a single
  // row each thread makes its own copy, which takes no longer than a barrier would. Matrices that
  // read the same rows share one copy, unless each has its own norm (SubLN placement `all`): then
  // `reader` counts q, k, v and gate, up.
  struct Inputs {
    Inputs(int64_t rows, int64_t width);
    void fill(const KernelTable& kernels, int64_t row, const float* in,
              const std::vector<float>& gain, float eps, int64_t width, bool needs_codes);
    std::vector<float> floats;
    std::vector<int8_t> codes;
    std::vector<float> scales;
    std::vector<int32_t> sums;
  };
  bool has_own_inputs() const { return num_rows() == 1; }
  size_t readers_apart() const { return config_.subln == Subln::all ? 3 : 1; }
  size_t inputs_index(int thread, size_t reader) const {
    const size_t owner = has_own_inputs() ? static_cast<size_t>(thread) : 0;
    return owner * readers_apart() + std::min(reader, readers_apart() - 1);
  }
  Inputs& inputs(int thread, size_t reader) { return inputs_[inputs_index(thread, reader)]; }
  const Inputs& inputs(int thread, size_t reader) const {
    return inputs_[inputs_index(thread, reader)];
  }
  std::vector<Inputs> inputs_;
};

}  // namespace wf::engine
