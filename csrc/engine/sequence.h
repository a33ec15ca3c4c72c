// The tokens of one conversation as the model remembers them: keys and values of every layer.
//
// Memory grows by pages of kKvPage positions. A page holds them for all layers and heads:
// [layer][key or value][kv head][kKvPage][head_dim], float32.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "config.h"
#include "kernels.h"

namespace wf::engine {

class Sequence {
 public:
  Sequence(const ModelConfig& config, int64_t max_tokens);

  int64_t length() const { return length_; }
  int64_t max_tokens() const { return max_tokens_; }
  // False when the sequence was made for a model of other sizes.
  bool fits(const ModelConfig& config) const;
  int64_t bytes() const { return static_cast<int64_t>(pages_.size()) * page_floats_ * 4; }

  // Forgets all tokens from `length` on and gives their pages back. Throws ModelError unless
  // 0 <= length <= length().
  void truncate(int64_t length);

  // For the forward pass: makes room for `count` more tokens, then counts them in.
  void reserve(int64_t count);
  void advance(int64_t count) { length_ += count; }

  const float* const* pages() const { return page_pointers_.data(); }
  int64_t key_offset(int64_t layer, int64_t kv_head) const {
    return ((layer * 2) * kv_heads_ + kv_head) * head_floats_;
  }
  int64_t value_offset(int64_t layer, int64_t kv_head) const {
    return ((layer * 2 + 1) * kv_heads_ + kv_head) * head_floats_;
  }
  // Where the key or value at `position` lies, given an offset from above.
  float* slot(int64_t offset, int64_t position) {
    return page_pointers_[static_cast<size_t>(position / kKvPage)] + offset +
           position % kKvPage * head_dim_;
  }

 private:
  int64_t layers_;
  int64_t kv_heads_;
  int64_t head_dim_;
  int64_t head_floats_;  // of one head in one page
  int64_t page_floats_;
  int64_t max_tokens_;
  int64_t length_ = 0;
  std::vector<Buffer> pages_;
  std::vector<float*> page_pointers_;
};

}  // namespace wf::engine
