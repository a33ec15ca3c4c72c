// Threads that run one job together and meet at barriers inside it.
//
// A decode step is one job of a few milliseconds with hundreds of barriers, so waiting spins first
// and then yields the processor; between jobs the threads sleep.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace wf::engine {

struct Range {
  int64_t begin;
  int64_t end;
};

class ThreadPool {
 public:
  // Throws ModelError when the system gives no such number of threads.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Runs job(0) here and job(1) .. job(size - 1) on the threads; returns when all are done. The job
  // must not throw. Throws ModelError in a process forked after the pool was made: threads do not
  // survive a fork.
  void run(const std::function<void(int)>& job);

  // Inside a job: returns when every thread has called it.
  void barrier();

  // A thread's part of `count`, in whole multiples of `unit` except at the end.
  Range share(int64_t count, int64_t unit, int thread) const {
    const int64_t units = (count + unit - 1) / unit;
    return {std::min(count, units * thread / size_ * unit),
            std::min(count, units * (thread + 1) / size_ * unit)};
  }

 private:
  void worker(int index);
  void stop();

  const int size_;
  const int process_;
  const std::function<void(int)>* job_ = nullptr;
  std::atomic<unsigned> job_number_{0};
  std::atomic<bool> is_stopping_{false};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> barrier_number_{0};
  std::vector<std::thread> threads_;
};

}  // namespace wf::engine
