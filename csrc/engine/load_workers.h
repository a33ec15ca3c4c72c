// The threads that read and repack the rows of tensors while a model is loaded, and what is told of
// how far they are.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "thread_pool.h"

namespace wf::engine {

// Called on the loading thread: at the start, twenty times a second, and at the end with
// done == total. May throw, which ends the load.
using OnProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

class LoadWorkers {
 public:
  // Memory that a thread keeps from chunk to chunk: fresh pages for each would cost as much as
  // reading into them.
  struct Scratch {
    std::vector<uint8_t> bytes;
    std::vector<float> floats;
    std::vector<int8_t> codes;
  };
  // Some rows of a tensor; false: the tensor is not what was hoped for, the other rows don't
  // matter.
  using Work = std::function<bool(int64_t first, int64_t count, Scratch& scratch)>;

  explicit LoadWorkers(int threads, uint64_t total_bytes = 0, OnProgress on_progress = {});

  // Runs `work` on all rows, a chunk at a time; `row_bytes` is the size of a stored row. Returns
  // false when a chunk did, throws what a chunk threw. If several failed, the first in row order
  // counts, so that the outcome is the same for any number of threads.
  bool for_rows(int64_t rows, int64_t row_bytes, const Work& work);

  // For on_progress: the tensor that is read from now on, all before it being done; and the end.
  void next_tensor(uint64_t bytes);
  void finish();

 private:
  void tell(int64_t rows_done, int64_t rows);

  ThreadPool pool_;
  std::vector<Scratch> scratch_;  // one per thread
  uint64_t total_bytes_;
  OnProgress on_progress_;
  uint64_t finished_bytes_ = 0;  // of the tensors before this one
  uint64_t tensor_bytes_ = 0;
  uint64_t told_bytes_ = 0;
  std::chrono::steady_clock::time_point next_tell_;
};

}  // namespace wf::engine
