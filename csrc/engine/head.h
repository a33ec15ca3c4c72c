// The head: logits of a few rows, all of them or only those that may matter.
//
// Screening reads an int8 copy of the head's rows instead of the rows themselves and knows how far
// each of these logits can be from the true one (Cauchy-Schwarz: at most the norm of the input
// times the norm of what the row's codes miss, and the same with the two exchanged). Rows whose
// upper bound is below what is asked for are ruled out; the others are computed as stored. So what
// is drawn is exactly what the whole head would give, for half the bytes or fewer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "buffer.h"
#include "kernels.h"
#include "matrix.h"
#include "thread_pool.h"

namespace wf::engine {

// Which logits of a row somebody will look at.
struct HeadNeed {
  bool all = true;
  // Otherwise those that may be among the `top` largest or less than `within` below the top-th, and
  // those of the tokens `always` (ascending), which do not count among the largest.
  int64_t top = 1;
  float within = 0;
  std::span<const int32_t> always = {};
};

struct TokenLogit {
  int32_t token;
  float logit;
};

class Head {
 public:
  static constexpr int64_t kRows = 16;  // per pass over the weights

  // Screens where `is_screened`, which takes memory for the copy: see screen_bytes().
  Head(const Matrix& matrix, const KernelTable& kernels, ThreadPool& pool, bool is_screened);

  bool is_screened() const { return screen_.size() > 0; }
  size_t screen_bytes() const;

  // Inside a job of the pool. A pass has up to kRows rows: input(row) is filled and prepare(row)
  // called by any thread, then a barrier, then every thread calls compute, which ends in one.
  float* input(int64_t row) { return inputs_.data() + row * matrix_.columns(); }
  void prepare(int64_t row, const HeadNeed& need);
  void compute(int64_t rows, int thread);

  // Afterwards: whether a row has all logits, and those it has. likely() is ascending by token.
  bool has_all(int64_t row) const { return rows_[static_cast<size_t>(row)].need.all; }
  float* logits(int64_t row) { return logits_.data() + row * matrix_.rows(); }
  std::vector<TokenLogit> likely(int64_t row) const;

  // Rows screened since the model was loaded, and logits computed from stored rows for them.
  struct Counts {
    int64_t rows = 0;
    int64_t rescored = 0;
  };
  Counts counts() const { return counts_; }

 private:
  struct Row {
    HeadNeed need;
    float scale = 0;       // of the int16 codes
    float error_part = 0;  // times the error of a weight row, plus
    float norm_part = 0;   // times its norm: how far a screened logit can be off
  };
  // What one thread found in its columns, for each row of the pass.
  struct Found {
    std::vector<float> lowest;  // a heap of the largest lower bounds, the smallest in front
    std::vector<TokenLogit> likely;
  };

  void fill_screen();
  void screen(int64_t first, int64_t count, int64_t begin, int64_t end, int thread);
  void keep_lowest(const Row& row, const float* lower, int64_t count, Found& found) const;
  float threshold(int64_t row) const;
  void rescore(int64_t row, int64_t begin, int64_t end, int thread);
  Found& found(int thread, int64_t row) {
    return found_[static_cast<size_t>(thread * kRows + row)];
  }
  const Found& found(int thread, int64_t row) const {
    return found_[static_cast<size_t>(thread * kRows + row)];
  }

  const Matrix& matrix_;
  const KernelTable& kernels_;
  ThreadPool& pool_;
  Buffer screen_;                               // layout i8
  std::vector<float> scales_, norms_, errors_;  // of its rows
  float max_code_ = 0;                          // of int16 inputs, so that no sum leaves int32
  std::vector<float> inputs_;
  std::vector<int16_t> codes_;
  std::vector<float> logits_;  // of a screened row: upper bounds
  std::vector<Row> rows_;
  std::vector<Found> found_;
  Counts counts_;
};

}  // namespace wf::engine
