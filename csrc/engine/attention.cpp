#include "attention.h"

#include <algorithm>
#include <cmath>

namespace wf::engine {

namespace {

// With so many heads for each thread, dividing the heads alone is even enough.
constexpr int64_t kManyHeads = 16;

// Adds what a later span gives to (out, part).
void merge(const float* later, SoftmaxPart later_part, int64_t head_dim, float* out,
           SoftmaxPart& part) {
  const float most = std::max(part.most, later_part.most);
  const float keep = std::exp(part.most - most);
  const float add = std::exp(later_part.most - most);
  for (int64_t i = 0; i < head_dim; ++i) out[i] = out[i] * keep + later[i] * add;
  part = {most, part.total * keep + later_part.total * add};
}

void divide(SoftmaxPart part, int64_t head_dim, float* out) {
  const float inverse = 1.0f / part.total;
  for (int64_t i = 0; i < head_dim; ++i) out[i] *= inverse;
}

}  // namespace

Attention::Attention(const ModelConfig& config, const KernelTable& kernels, ThreadPool& pool)
    : config_(config), kernels_(kernels), pool_(pool) {}

void Attention::plan(std::span<const TokenRow> rows) {
  rows_ = rows;
  spans_ = 0;
  for (int64_t row = 0; row < num_rows(); ++row) spans_ = std::max(spans_, spans(row));
  const int64_t heads = num_rows() * config_.heads;
  is_divided_ = pool_.size() > 1 && spans_ > 1 && heads < kManyHeads * pool_.size();
  const int64_t kept = is_divided_ ? spans_ * heads : pool_.size() * group();
  const auto grow = [](auto& values, int64_t size) {
    if (static_cast<int64_t>(values.size()) < size) values.resize(static_cast<size_t>(size));
  };
  grow(softmaxes_, heads);
  grow(span_softmaxes_, kept);
  grow(span_outs_, kept * config_.head_dim);
}

void Attention::run(int64_t layer, const float* q, float* out, int thread) {
  if (is_divided_) {
    attend_spans(layer, q, thread);
    pool_.barrier();
    merge_spans(out, thread);
  } else {
    attend_heads(layer, q, out, thread);
  }
  pool_.barrier();
}

// One span; out and softmax are those of the first of `heads`.
void Attention::attend(int64_t layer, const Heads& heads, int64_t span, const float* q, float* out,
                       SoftmaxPart* softmax) const {
  const TokenRow& row = rows_[static_cast<size_t>(heads.row)];
  const Sequence& sequence = *row.sequence;
  const int64_t kv_head = heads.first / group();
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  kernels_.attention(q + place(heads.row, heads.first) * config_.head_dim, heads.count,
                     sequence.pages(), sequence.type(), sequence.key_offset(layer, kv_head),
                     sequence.value_offset(layer, kv_head), span * kSpan,
                     std::min((span + 1) * kSpan, row.position + 1), config_.head_dim, scale, out,
                     softmax);
}

// Each thread some of all [kv head, row, head of the group], over all their positions.
void Attention::attend_heads(int64_t layer, const float* q, float* out, int thread) {
  const int64_t d = config_.head_dim;
  const Range range = pool_.share(num_rows() * config_.heads, 1, thread);
  const int64_t of_kv_head = num_rows() * group();
  SoftmaxPart* const later_softmax = span_softmaxes_.data() + thread * group();
  float* const later = span_outs_.data() + thread * group() * d;
  for (int64_t kv_head = range.begin / of_kv_head; kv_head * of_kv_head < range.end; ++kv_head) {
    const int64_t begin = std::max(range.begin - kv_head * of_kv_head, int64_t{0});
    const int64_t end = std::min(range.end - kv_head * of_kv_head, of_kv_head);
    for (int64_t span = 0; span < spans_; ++span) {
      for (int64_t i = begin, count = 0; i < end; i += count) {
        count = std::min(end - i, group() - i % group());
        const Heads heads = {i / group(), kv_head * group() + i % group(), count};
        if (span >= spans(heads.row)) continue;
        const int64_t at = place(heads.row, heads.first);
        SoftmaxPart* const softmax = softmaxes_.data() + at;
        const bool is_first = span == 0;
        attend(layer, heads, span, q, is_first ? out + at * d : later,
               is_first ? softmax : later_softmax);
        for (int64_t h = 0; h < count && !is_first; ++h) {
          merge(later + h * d, later_softmax[h], d, out + (at + h) * d, softmax[h]);
        }
        for (int64_t h = 0; h < count && span + 1 == spans(heads.row); ++h) {
          divide(softmax[h], d, out + (at + h) * d);
        }
      }
    }
  }
}

// Each thread some of all [span, row, head].
void Attention::attend_spans(int64_t layer, const float* q, int thread) {
  const int64_t heads = num_rows() * config_.heads;
  const Range range = pool_.share(spans_ * heads, 1, thread);
  for (int64_t i = range.begin, count = 0; i < range.end; i += count) {
    const int64_t span = i / heads;
    const int64_t row = i % heads / config_.heads;
    const int64_t head = i % config_.heads;
    count = std::min(range.end - i, group() - head % group());
    if (span >= spans(row)) continue;
    attend(layer, {row, head, count}, span, q, span_outs_.data() + i * config_.head_dim,
           span_softmaxes_.data() + i);
  }
}

void Attention::merge_spans(float* out, int thread) {
  const int64_t d = config_.head_dim;
  const int64_t heads = num_rows() * config_.heads;
  const Range range = pool_.share(heads, 1, thread);
  for (int64_t i = range.begin; i < range.end; ++i) {
    std::copy_n(span_outs_.data() + i * d, d, out + i * d);
    SoftmaxPart softmax = span_softmaxes_[static_cast<size_t>(i)];
    for (int64_t span = 1; span < spans(i / config_.heads); ++span) {
      const int64_t at = span * heads + i;
      merge(span_outs_.data() + at * d, span_softmaxes_[static_cast<size_t>(at)], d, out + i * d,
            softmax);
    }
    divide(softmax, d, out + i * d);
  }
}

}  // namespace wf::engine
