#include "step_profile.h"

#include <algorithm>
#include <utility>

namespace wf::engine {

constinit thread_local PhaseClock* PhaseClock::running = nullptr;

void PhaseClock::start() {
  phase_ = Phase::other;
  since_ = Time::now();
  running = this;
}

void PhaseClock::stop() {
  enter(Phase::other);
  running = nullptr;
}

Phase PhaseClock::enter(Phase next) {
  const Time::time_point now = Time::now();
  spent_[static_cast<size_t>(phase_)] += now - since_;
  since_ = now;
  return std::exchange(phase_, next);
}

StepProfile::Step::Step(StepProfile& profile) : profile_(profile) {
  if (profile.is_on_) start_ = PhaseClock::Time::now();
}

StepProfile::Step::~Step() {
  if (!profile_.is_on_) return;
  profile_.total_ += PhaseClock::Time::now() - start_;
  ++profile_.steps_;
}

StepTimes StepProfile::take() {
  using Seconds = std::chrono::duration<double>;
  StepTimes times;
  times.total = Seconds(total_).count();
  times.steps = steps_;
  double named = 0;
  for (int i = 1; i < kPhases; ++i) {
    double& mean = times.phases[static_cast<size_t>(i)];
    for (const PhaseClock& clock : clocks_) {
      mean += Seconds(clock.spent(static_cast<Phase>(i))).count();
    }
    mean /= static_cast<double>(clocks_.size());
    named += mean;
  }
  // What no clock of a thread has seen too: a step outside its job, and a thread that wakes late.
  times.phases[0] = times.total - named;
  std::fill(clocks_.begin(), clocks_.end(), PhaseClock());
  total_ = {};
  steps_ = 0;
  return times;
}

}  // namespace wf::engine
