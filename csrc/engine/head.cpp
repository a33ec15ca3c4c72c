#include "head.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "layout/i8.h"

namespace wf::engine {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = 256;  // columns screened at a time, a multiple of a panel's 16
// A wider choice is not worth screening.
constexpr int64_t kMinRowsPerChoice = 16;

int64_t code_stride(int64_t k) { return i8::blocks(k) * i8::kColumns; }

}  // namespace

Head::Head(const Matrix& matrix, const KernelTable& kernels, ThreadPool& pool, bool is_screened)
    : matrix_(matrix), kernels_(kernels), pool_(pool) {
  const int64_t hidden = matrix.columns();
  inputs_.resize(static_cast<size_t>(kRows * hidden));
  logits_.resize(static_cast<size_t>(kRows * matrix.rows()));
  rows_.resize(kRows);
  const int64_t largest = std::numeric_limits<int32_t>::max() / (127 * hidden);
  if (!is_screened || largest < 127) return;
  max_code_ = static_cast<float>(std::min<int64_t>(largest, 32767));
  codes_.resize(static_cast<size_t>(kRows * code_stride(hidden)));
  found_.resize(static_cast<size_t>(pool.size() * kRows));
  fill_screen();
}

void Head::fill_screen() {
  const int64_t vocab = matrix_.rows();
  const int64_t hidden = matrix_.columns();
  screen_ = Buffer(static_cast<size_t>(i8::size_bytes(vocab, hidden)));
  for (std::vector<float>* values : {&scales_, &norms_, &errors_}) {
    values->resize(static_cast<size_t>(vocab));
  }
  pool_.run([&](int thread) {
    std::vector<int8_t> codes(static_cast<size_t>(i8::kRows * hidden));
    const auto [begin, end] = pool_.share(vocab, i8::kRows, thread);
    for (int64_t first = begin; first < end; first += i8::kRows) {
      const int64_t count = std::min(i8::kRows, vocab - first);
      for (int64_t r = 0; r < count; ++r) {
        const RowScreen row = kernels_.screen_row(matrix_.row(first + r), matrix_.type(), hidden,
                                                  codes.data() + r * hidden);
        const auto at = static_cast<size_t>(first + r);
        scales_[at] = row.scale;
        norms_[at] = row.norm;
        errors_[at] = row.error;
      }
      i8::pack_panel(codes.data(), count, hidden,
                     screen_.as<int8_t>() + first / i8::kRows * i8::panel_bytes(hidden));
    }
  });
}

size_t Head::screen_bytes() const { return screen_.size() + 3 * scales_.size() * sizeof(float); }

void Head::prepare(int64_t index, const HeadNeed& need) {
  Row& row = rows_[static_cast<size_t>(index)];
  row.need = need;
  row.need.all = need.all || !is_screened() || need.top > matrix_.rows() / kMinRowsPerChoice;
  if (row.need.all) return;
  const int64_t hidden = matrix_.columns();
  const float* x = input(index);
  int16_t* codes = codes_.data() + index * code_stride(hidden);
  float absmax = kMinRowAbsMax;
  double squares = 0;
  for (int64_t i = 0; i < hidden; ++i) {
    absmax = std::max(absmax, std::fabs(x[i]));
    squares += double{x[i]} * x[i];
  }
  if (!std::isfinite(squares)) {
    row.need.all = true;  // what is wrong shows in the logits themselves
    return;
  }
  row.scale = absmax / max_code_;
  const float inverse = max_code_ / absmax;
  double missed = 0;
  for (int64_t i = 0; i < hidden; ++i) {
    const float rounded = x[i] * inverse + kRoundBias - kRoundBias;
    codes[i] = static_cast<int16_t>(rounded);
    const double rest = x[i] - double{row.scale} * rounded;
    missed += rest * rest;
  }
  // `slack` times both norms is more than float32 loses: in the sums of the true logit, hidden
  // terms long, and in the products and sums of the screened one and its bounds.
  const double slack = static_cast<double>(hidden + 64) * 0x1p-23;
  const double norm = std::sqrt(squares);
  row.error_part = static_cast<float>(norm * (1 + 2 * slack)) + kTinyNorm;
  row.norm_part = static_cast<float>((std::sqrt(missed) + slack * norm) * (1 + 1e-6)) + kTinyNorm;
}

void Head::compute(int64_t rows, int thread) {
  const int64_t vocab = matrix_.rows();
  const auto [begin, end] = pool_.share(vocab, i8::kRows, thread);
  bool any_screened = false;
  for (int64_t first = 0, next = 0; first < rows; first = next) {
    // Neighbours that are computed alike share one pass.
    while (next < rows && has_all(next) == has_all(first)) ++next;
    if (has_all(first)) {
      kernels_.gemm_f32_dense(input(first), matrix_.columns(), next - first, matrix_.data(),
                              matrix_.type(), matrix_.columns(), begin, end, logits(first), vocab);
    } else {
      screen(first, next - first, begin, end, thread);
      any_screened = true;
    }
  }
  pool_.barrier();
  if (!any_screened) return;
  for (int64_t row = 0; row < rows; ++row) {
    if (!has_all(row)) rescore(row, begin, end, thread);
  }
  pool_.barrier();
  if (thread != 0) return;
  for (int64_t row = 0; row < rows; ++row) {
    if (has_all(row)) continue;
    ++counts_.rows;
    for (int t = 0; t < pool_.size(); ++t) {
      counts_.rescored += static_cast<int64_t>(found(t, row).likely.size());
    }
  }
}

// Upper bounds of the logits into logits(), the largest lower bounds into found().
void Head::screen(int64_t first, int64_t count, int64_t begin, int64_t end, int thread) {
  const int64_t hidden = matrix_.columns();
  const int64_t stride = code_stride(hidden);
  int32_t sums[kRows * kBlock];
  float lower[kBlock];
  for (int64_t r = first; r < first + count; ++r) found(thread, r).lowest.clear();
  for (int64_t from = begin; from < end; from += kBlock) {
    const int64_t columns = std::min(kBlock, end - from);
    const int8_t* panel = screen_.as<int8_t>() + from / i8::kRows * i8::panel_bytes(hidden);
    kernels_.gemm_s16_i8(codes_.data() + first * stride, stride, count, panel, hidden, 0, columns,
                         sums, kBlock);
    for (int64_t r = first; r < first + count; ++r) {
      const Row& row = rows_[static_cast<size_t>(r)];
      const int32_t* sum = sums + (r - first) * kBlock;
      float* upper = logits(r) + from;
      for (int64_t j = 0; j < columns; ++j) {
        const auto at = static_cast<size_t>(from + j);
        const float logit = static_cast<float>(sum[j]) * (row.scale * scales_[at]);
        const float off = row.error_part * errors_[at] + row.norm_part * norms_[at];
        upper[j] = logit + off;
        lower[j] = logit - off;
      }
      const std::span<const int32_t> always = row.need.always;
      for (auto token = std::lower_bound(always.begin(), always.end(), from);
           token != always.end() && *token < from + columns; ++token) {
        upper[*token - from] = kInfinity;
        lower[*token - from] = -kInfinity;
      }
      keep_lowest(row, lower, columns, found(thread, r));
    }
  }
}

void Head::keep_lowest(const Row& row, const float* lower, int64_t count, Found& found) const {
  std::vector<float>& heap = found.lowest;
  const auto top = static_cast<size_t>(row.need.top);
  for (int64_t j = 0; j < count; ++j) {
    if (heap.size() < top) {
      heap.push_back(lower[j]);
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    } else if (lower[j] > heap.front()) {
      std::pop_heap(heap.begin(), heap.end(), std::greater<>());
      heap.back() = lower[j];
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  }
}

// No logit below this can be one that was asked for.
float Head::threshold(int64_t row) const {
  const HeadNeed& need = rows_[static_cast<size_t>(row)].need;
  std::vector<float> lowest;
  for (int t = 0; t < pool_.size(); ++t) {
    const std::vector<float>& part = found(t, row).lowest;
    lowest.insert(lowest.end(), part.begin(), part.end());
  }
  if (static_cast<int64_t>(lowest.size()) < need.top) return -kInfinity;
  const auto kth = lowest.begin() + (need.top - 1);
  std::nth_element(lowest.begin(), kth, lowest.end(), std::greater<>());
  return *kth - need.within;
}

void Head::rescore(int64_t row, int64_t begin, int64_t end, int thread) {
  const float least = threshold(row);
  const float* upper = logits(row);
  std::vector<TokenLogit>& likely = found(thread, row).likely;
  likely.clear();
  for (int64_t j = begin; j < end; ++j) {
    if (upper[j] < least) continue;
    float logit;
    kernels_.gemm_f32_dense(input(row), matrix_.columns(), 1, matrix_.row(j), matrix_.type(),
                            matrix_.columns(), 0, 1, &logit, 1);
    likely.push_back({static_cast<int32_t>(j), logit});
  }
}

std::vector<TokenLogit> Head::likely(int64_t row) const {
  std::vector<TokenLogit> all;
  for (int t = 0; t < pool_.size(); ++t) {
    const std::vector<TokenLogit>& part = found(t, row).likely;
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace wf::engine
