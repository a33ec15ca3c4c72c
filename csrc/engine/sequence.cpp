#include "sequence.h"

#include "error.h"

namespace wf::engine {

Sequence::Sequence(const ModelConfig& config, int64_t max_tokens)
    : layers_(config.layers),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      head_floats_(kKvPage * config.head_dim),
      page_floats_(layers_ * 2 * config.kv_heads * head_floats_),
      max_tokens_(max_tokens) {
  if (max_tokens < 1) throw ModelError("a sequence needs room for at least 1 token");
}

bool Sequence::fits(const ModelConfig& config) const {
  return layers_ == config.layers && kv_heads_ == config.kv_heads && head_dim_ == config.head_dim;
}

void Sequence::truncate(int64_t length) {
  if (length < 0 || length > length_) {
    throw ModelError("cannot truncate a sequence of " + std::to_string(length_) + " tokens to " +
                     std::to_string(length));
  }
  length_ = length;
  const auto kept = static_cast<size_t>((length + kKvPage - 1) / kKvPage);
  pages_.resize(kept);
  page_pointers_.resize(kept);
}

void Sequence::reserve(int64_t count) {
  const auto needed = static_cast<size_t>((length_ + count + kKvPage - 1) / kKvPage);
  while (pages_.size() < needed) {
    pages_.emplace_back(static_cast<size_t>(page_floats_) * sizeof(float));
    page_pointers_.push_back(pages_.back().as<float>());
  }
}

}  // namespace wf::engine
