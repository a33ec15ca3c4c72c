#include "attention.h"

#include <algorithm>
#include <cmath>

namespace wf::engine {

namespace {

// With so many heads for each thread, dividing the heads alone is even enough.
constexpr int64_t kManyHeads = 16;

int64_t spans_of(const TokenRow& row) { return row.position / Attention::kSpan + 1; }

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
  for (const TokenRow& row : rows) spans_ = std::max(spans_, spans_of(row));
  const int64_t heads = static_cast<int64_t>(rows.size()) * config_.heads;
  is_divided_ = pool_.size() > 1 && spans_ > 1 && heads < kManyHeads * pool_.size();
  const int64_t parts = is_divided_ ? heads * spans_ : 2 * group() * pool_.size();
  if (static_cast<int64_t>(softmaxes_.size()) >= parts) return;
  softmaxes_.resize(static_cast<size_t>(parts));
  outs_.resize(static_cast<size_t>(parts * config_.head_dim));
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

Attention::Part Attention::part(int64_t index) {
  return {outs_.data() + index * config_.head_dim, softmaxes_.data() + index};
}

int64_t Attention::sharing(int64_t head, int64_t most) const {
  return std::min(most, group() - head % group());
}

// `count` heads from `head` on over one span; q and `to` are those of the first.
void Attention::attend(int64_t layer, const TokenRow& row, int64_t head, int64_t count,
                       int64_t span, const float* q, const Part& to) const {
  const Sequence& sequence = *row.sequence;
  const int64_t kv_head = head / group();
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  kernels_.attention(q, count, sequence.pages(), sequence.type(),
                     sequence.key_offset(layer, kv_head), sequence.value_offset(layer, kv_head),
                     span * kSpan, std::min((span + 1) * kSpan, row.position + 1), config_.head_dim,
                     scale, to.out, to.softmax);
}

// Each thread some heads, over all their positions.
void Attention::attend_heads(int64_t layer, const float* q, float* out, int thread) {
  const int64_t d = config_.head_dim;
  const int64_t heads = config_.heads;
  const Part later = part(2 * group() * thread);
  SoftmaxPart* const softmax = later.softmax + group();
  const Range range = pool_.share(static_cast<int64_t>(rows_.size()) * heads, 1, thread);
  for (int64_t i = range.begin; i < range.end;) {
    const TokenRow& row = rows_[static_cast<size_t>(i / heads)];
    const int64_t count = sharing(i % heads, range.end - i);
    attend(layer, row, i % heads, count, 0, q + i * d, {out + i * d, softmax});
    for (int64_t span = 1; span < spans_of(row); ++span) {
      attend(layer, row, i % heads, count, span, q + i * d, later);
      for (int64_t h = 0; h < count; ++h) {
        merge(later.out + h * d, later.softmax[h], d, out + (i + h) * d, softmax[h]);
      }
    }
    for (int64_t h = 0; h < count; ++h) divide(softmax[h], d, out + (i + h) * d);
    i += count;
  }
}

// Each thread some heads of some spans.
void Attention::attend_spans(int64_t layer, const float* q, int thread) {
  const int64_t d = config_.head_dim;
  const int64_t heads = config_.heads;
  const Range range = pool_.share(static_cast<int64_t>(rows_.size()) * spans_ * heads, 1, thread);
  for (int64_t i = range.begin; i < range.end;) {
    const int64_t r = i / (spans_ * heads);
    const int64_t span = i / heads % spans_;
    const int64_t head = i % heads;
    const int64_t count = sharing(head, range.end - i);
    const TokenRow& row = rows_[static_cast<size_t>(r)];
    if (span < spans_of(row)) {
      attend(layer, row, head, count, span, q + (r * heads + head) * d, part(i));
    }
    i += count;
  }
}

void Attention::merge_spans(float* out, int thread) {
  const int64_t d = config_.head_dim;
  const int64_t heads = config_.heads;
  const Range range = pool_.share(static_cast<int64_t>(rows_.size()) * heads, 1, thread);
  for (int64_t i = range.begin; i < range.end; ++i) {
    const int64_t r = i / heads;
    const Part first = part(r * spans_ * heads + i % heads);
    std::copy_n(first.out, d, out + i * d);
    SoftmaxPart softmax = *first.softmax;
    for (int64_t span = 1; span < spans_of(rows_[static_cast<size_t>(r)]); ++span) {
      const Part later = part((r * spans_ + span) * heads + i % heads);
      merge(later.out, *later.softmax, d, out + i * d, softmax);
    }
    divide(softmax, d, out + i * d);
  }
}

}  // namespace wf::engine
