#include "sequence.h"

#include <algorithm>
#include <cstring>

#include "error.h"
#include "layout/kv.h"

namespace wf::engine {

namespace {

size_t pages_of(int64_t tokens) { return static_cast<size_t>((tokens + kKvPage - 1) / kKvPage); }

}  // namespace

Sequence::Sequence(const ModelConfig& config, KvType type, int64_t max_tokens)
    : layers_(config.layers),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      type_(type),
      head_bytes_(kv::head_bytes(type, config.head_dim)),
      page_bytes_(layers_ * kv_heads_ * 2 * head_bytes_),
      max_tokens_(max_tokens) {
  if (max_tokens < 1) throw ModelError("a sequence needs room for at least 1 token");
}

bool Sequence::fits(const ModelConfig& config) const {
  return layers_ == config.layers && kv_heads_ == config.kv_heads && head_dim_ == config.head_dim;
}

int64_t Sequence::bytes_per_token(const ModelConfig& config, KvType type) {
  return config.layers * config.kv_heads * 2 * kv::head_bytes(type, config.head_dim) / kKvPage;
}

std::unique_ptr<Sequence> Sequence::fork(int64_t length, int64_t max_tokens) const {
  if (length < 0 || length > length_ || length > max_tokens || max_tokens < 1) {
    throw ModelError("cannot share the first " + std::to_string(length) + " tokens of " +
                     std::to_string(length_) + " with a sequence of at most " +
                     std::to_string(max_tokens));
  }
  auto other = std::make_unique<Sequence>(*this);
  other->max_tokens_ = max_tokens;
  other->truncate(length);
  return other;
}

void Sequence::truncate(int64_t length) {
  if (length < 0 || length > length_) {
    throw ModelError("cannot truncate a sequence of " + std::to_string(length_) + " tokens to " +
                     std::to_string(length));
  }
  length_ = length;
  pages_.resize(pages_of(length));
  page_pointers_.resize(pages_.size());
}

void Sequence::reserve(int64_t count) {
  const auto bytes = static_cast<size_t>(page_bytes_);
  // Of the pages in use only the last is written to again, and somebody else may own it too.
  const auto last = static_cast<size_t>(length_ / kKvPage);
  if (length_ % kKvPage != 0 && pages_[last].use_count() > 1) {
    auto copy = std::make_shared<Buffer>(bytes);
    std::memcpy(copy->as<uint8_t>(), page_pointers_[last], bytes);
    page_pointers_[last] = copy->as<uint8_t>();
    pages_[last] = std::move(copy);
  }
  while (pages_.size() < pages_of(length_ + count)) {
    pages_.push_back(std::make_shared<Buffer>(bytes));
    page_pointers_.push_back(pages_.back()->as<uint8_t>());
  }
}

}  // namespace wf::engine
