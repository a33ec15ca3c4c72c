// The tokens of one conversation as the model remembers them: keys and values of every layer.
//
// Memory grows by pages of kKvPage positions. A page holds them for all layers and heads:
// [layer][kv head][keys, then values], each block as layout/kv.h has it. Sequences that begin alike
// share pages: a page is copied when one of its owners is about to write to it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "buffer.h"
#include "config.h"
#include "kernels.h"

namespace wf::engine {

class Sequence {
 public:
  Sequence(const ModelConfig& config, KvType type, int64_t max_tokens);

  int64_t length() const { return length_; }
  int64_t max_tokens() const { return max_tokens_; }
  KvType type() const { return type_; }
  // False when the sequence was made for a model of other sizes.
  bool fits(const ModelConfig& config) const;
  // Of all its pages, shared ones too.
  int64_t bytes() const { return static_cast<int64_t>(pages_.size()) * page_bytes_; }
  static int64_t bytes_per_token(const ModelConfig& config, KvType type);

  // Another sequence with the first `length` tokens of this one and room for `max_tokens`. Throws
  // ModelError unless 0 <= length <= length() and length <= max_tokens.
  std::unique_ptr<Sequence> fork(int64_t length, int64_t max_tokens) const;

  // Forgets all tokens from `length` on and gives their pages back. Throws ModelError unless
  // 0 <= length <= length().
  void truncate(int64_t length);

  // For the forward pass: makes room for `count` more tokens, then counts them in.
  void reserve(int64_t count);
  void advance(int64_t count) { length_ += count; }

  const uint8_t* const* pages() const { return page_pointers_.data(); }
  // Of the blocks of one head in every page.
  int64_t key_offset(int64_t layer, int64_t kv_head) const {
    return (layer * kv_heads_ + kv_head) * 2 * head_bytes_;
  }
  int64_t value_offset(int64_t layer, int64_t kv_head) const {
    return key_offset(layer, kv_head) + head_bytes_;
  }
  // The page of a position that reserve made room for.
  uint8_t* page(int64_t position) {
    return page_pointers_[static_cast<size_t>(position / kKvPage)];
  }

 private:
  int64_t layers_;
  int64_t kv_heads_;
  int64_t head_dim_;
  KvType type_;
  int64_t head_bytes_;  // of the keys, or the values, of one head in one page
  int64_t page_bytes_;
  int64_t max_tokens_;
  int64_t length_ = 0;
  std::vector<std::shared_ptr<Buffer>> pages_;
  std::vector<uint8_t*> page_pointers_;
};

}  // namespace wf::engine
