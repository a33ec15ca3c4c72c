// Where the time of a step goes: every thread's time by phase, measured where the phases begin.
//
// A thread has a clock only while it runs a job that is measured. Code that begins a phase then
// reads the time, some tens of nanoseconds; otherwise it tests one pointer.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <vector>

namespace wf::engine {

enum class Phase : uint8_t {
  other,          // token rows, RoPE tables, everything outside the job of the pool
  matmul,         // products, and what is done to their outputs: bias, activation, residual
  attention,      // head norms and RoPE, storing keys and values, attention
  head,           // final norm, head, sampling
  norm_quantize,  // norms and quantization of the rows
  barrier,        // waiting for other threads, in any phase
};
constexpr int kPhases = 6;

// The time of one thread; a cache line or more of its own.
class alignas(64) PhaseClock {
 public:
  using Time = std::chrono::steady_clock;

  // From start to stop this is the clock of the calling thread.
  void start();
  void stop();

  // Ends the phase and returns it.
  Phase enter(Phase next);

  Time::duration spent(Phase phase) const { return spent_[static_cast<size_t>(phase)]; }

  // The clock that runs on this thread, or null.
  static constinit thread_local PhaseClock* running;

 private:
  std::array<Time::duration, kPhases> spent_{};
  Time::time_point since_;
  Phase phase_ = Phase::other;
};

// From here on this thread is in `phase`. For code that runs in a job of the pool.
inline void enter_phase(Phase phase) {
  if (PhaseClock* clock = PhaseClock::running) clock->enter(phase);
}

// In `phase` until the end of the block, then in the phase before.
class WithinPhase {
 public:
  explicit WithinPhase(Phase phase) : clock_(PhaseClock::running) {
    if (clock_ != nullptr) before_ = clock_->enter(phase);
  }
  ~WithinPhase() {
    if (clock_ != nullptr) clock_->enter(before_);
  }
  WithinPhase(const WithinPhase&) = delete;
  WithinPhase& operator=(const WithinPhase&) = delete;

 private:
  PhaseClock* clock_;
  Phase before_ = Phase::other;
};

// Seconds, the mean of the threads. They add up to `total`, the time of whole steps.
struct StepTimes {
  std::array<double, kPhases> phases{};
  double total = 0;
  int64_t steps = 0;

  double of(Phase phase) const { return phases[static_cast<size_t>(phase)]; }
};

class StepProfile {
 public:
  explicit StepProfile(int threads) : clocks_(static_cast<size_t>(threads)) {}

  // Measures steps from now on, or no more. Not during a step.
  void set_on(bool is_on) { is_on_ = is_on; }
  // What was measured since the last call. Not during a step.
  StepTimes take();

  // A whole step, on the thread that asked for it.
  class Step {
   public:
    explicit Step(StepProfile& profile);
    ~Step();
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;

   private:
    StepProfile& profile_;
    PhaseClock::Time::time_point start_;
  };

  // This thread's part of a job: its clock runs.
  class Part {
   public:
    Part(StepProfile& profile, int thread)
        : clock_(profile.is_on_ ? &profile.clocks_[static_cast<size_t>(thread)] : nullptr) {
      if (clock_ != nullptr) clock_->start();
    }
    ~Part() {
      if (clock_ != nullptr) clock_->stop();
    }
    Part(const Part&) = delete;
    Part& operator=(const Part&) = delete;

   private:
    PhaseClock* clock_;
  };

 private:
  bool is_on_ = false;
  std::vector<PhaseClock> clocks_;
  PhaseClock::Time::duration total_{};
  int64_t steps_ = 0;
};

}  // namespace wf::engine
