#include "load_workers.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

namespace wf::engine {

namespace {

// A chunk stays in a core's cache between reading and packing. It is whole panels of 16 rows, since
// threads that write to one panel take its cache lines from each other.
constexpr int64_t kChunkBytes = 256 << 10;
constexpr int64_t kPanelRows = 16;
constexpr int64_t kMaxChunkRows = 128;  // small matrices are shared too

// The listener may have to wait for Python's lock.
constexpr auto kTellInterval = std::chrono::milliseconds(50);

int64_t chunk_rows(int64_t row_bytes) {
  const int64_t rows = kChunkBytes / std::max<int64_t>(row_bytes, 1);
  return std::clamp(rows / kPanelRows * kPanelRows, kPanelRows, kMaxChunkRows);
}

}  // namespace

LoadWorkers::LoadWorkers(int threads, uint64_t total_bytes, OnProgress on_progress)
    : pool_(threads),
      scratch_(static_cast<size_t>(threads)),
      total_bytes_(total_bytes),
      on_progress_(std::move(on_progress)) {}

bool LoadWorkers::for_rows(int64_t rows, int64_t row_bytes, const Work& work) {
  const int64_t chunk = chunk_rows(row_bytes);
  const int64_t chunks = (rows + chunk - 1) / chunk;
  tell(0, rows);
  // Chunks are taken in order, and none before the first that failed is left out.
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> failed{chunks};
  std::atomic<int64_t> rows_done{0};
  std::mutex mutex;
  std::exception_ptr error;  // of the chunk `failed`; null when it returned false
  pool_.run([&](int thread) {
    for (;;) {
      const int64_t index = next.fetch_add(1);
      if (index >= failed) return;
      const int64_t first = index * chunk;
      const int64_t count = std::min(chunk, rows - first);
      bool is_good = false;
      std::exception_ptr problem;
      try {
        if (thread == 0) tell(rows_done, rows);
        is_good = work(first, count, scratch_[static_cast<size_t>(thread)]);
      } catch (...) {
        problem = std::current_exception();
      }
      rows_done += count;
      if (is_good) continue;
      const std::lock_guard lock(mutex);
      if (index < failed) {
        failed = index;
        error = problem;
      }
    }
  });
  if (error) std::rethrow_exception(error);
  return failed == chunks;
}

void LoadWorkers::next_tensor(uint64_t bytes) {
  finished_bytes_ += tensor_bytes_;
  tensor_bytes_ = bytes;
}

void LoadWorkers::finish() {
  if (on_progress_) on_progress_(total_bytes_, total_bytes_);
}

void LoadWorkers::tell(int64_t rows_done, int64_t rows) {
  if (!on_progress_) return;
  if (std::chrono::steady_clock::now() < next_tell_) return;
  const double share = static_cast<double>(rows_done) / static_cast<double>(rows);
  const auto in_tensor = static_cast<uint64_t>(share * static_cast<double>(tensor_bytes_));
  // Some tensors are read twice; what was told is not taken back.
  told_bytes_ = std::max(told_bytes_, finished_bytes_ + in_tensor);
  on_progress_(told_bytes_, total_bytes_);
  next_tell_ = std::chrono::steady_clock::now() + kTellInterval;  // a slow listener has its pause
}

}  // namespace wf::engine
