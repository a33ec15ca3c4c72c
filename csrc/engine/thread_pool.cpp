#include "thread_pool.h"

#include <sched.h>
#include <unistd.h>

#include "error.h"
#include "step_profile.h"

namespace wf::engine {

namespace {

constexpr int kSpins = 4000;  // some tens of microseconds, longer than a balanced phase waits

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) : size_(threads), process_(::getpid()) {
  try {
    for (int i = 1; i < size_; ++i) threads_.emplace_back(&ThreadPool::worker, this, i);
  } catch (const std::exception& error) {  // no more processes (ulimit -u, a cgroup) or no memory
    stop();
    throw ModelError("the system gives no more than " + std::to_string(threads_.size() + 1) +
                     " of " + std::to_string(size_) + " threads (" + error.what() +
                     "): ask for fewer");
  }
}

ThreadPool::~ThreadPool() {
  if (::getpid() != process_) {
    for (std::thread& thread : threads_) thread.detach();  // they exist in the parent only
    return;
  }
  stop();
}

void ThreadPool::stop() {
  is_stopping_ = true;
  ++job_number_;
  job_number_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(const std::function<void(int)>& job) {
  if (size_ > 1) {
    if (::getpid() != process_) {
      throw ModelError("the model was loaded before a fork; load it in the process that runs it");
    }
    job_ = &job;
    job_number_.fetch_add(1, std::memory_order_release);
    job_number_.notify_all();
  }
  job(0);
  barrier();
}

void ThreadPool::barrier() {
  if (size_ == 1) return;
  const WithinPhase waiting(Phase::barrier);
  const unsigned number = barrier_number_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    barrier_number_.store(number + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; barrier_number_.load(std::memory_order_acquire) == number; ++spins) {
    if (spins < kSpins) {
      pause();
    } else {
      ::sched_yield();
    }
  }
}

void ThreadPool::worker(int index) {
  unsigned seen = 0;
  for (;;) {
    for (int spins = 0; job_number_.load(std::memory_order_acquire) == seen && spins < kSpins;
         ++spins) {
      pause();
    }
    job_number_.wait(seen, std::memory_order_acquire);
    seen = job_number_.load(std::memory_order_acquire);
    if (is_stopping_) return;
    (*job_)(index);
    barrier();
  }
}

}  // namespace wf::engine
