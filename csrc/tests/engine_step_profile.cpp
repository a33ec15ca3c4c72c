#include <gtest/gtest.h>

#include "multiply_peak.h"
#include "step_profile.h"
#include "thread_pool.h"

namespace wf::engine {
namespace {

constexpr double kWork = 0.004;  // seconds

void work(double seconds) {
  const auto end = PhaseClock::Time::now() + std::chrono::duration<double>(seconds);
  while (PhaseClock::Time::now() < end) {
  }
}

// One thread has half a phase to do, so it waits the other half.
void step(StepProfile& profile, ThreadPool& pool) {
  const StepProfile::Step measured(profile);
  pool.run([&](int thread) {
    const StepProfile::Part part(profile, thread);
    enter_phase(Phase::matmul);
    work(thread == 0 ? kWork : kWork / 2);
    pool.barrier();
    enter_phase(Phase::norm_quantize);
    work(kWork);
    pool.barrier();
  });
  work(kWork);
}

TEST(StepProfile, TimeGoesToTheMeanOfThreadsAndPhasesAddUp) {
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    StepProfile profile(threads);
    profile.set_on(true);
    for (int i = 0; i < 3; ++i) step(profile, pool);
    const StepTimes times = profile.take();
    EXPECT_EQ(times.steps, 3);
    // A busy machine makes any of them longer, none shorter.
    const double others = threads - 1;
    EXPECT_GE(times.of(Phase::matmul), 3 * kWork * (1 + others / 2) / threads);
    EXPECT_GE(times.of(Phase::norm_quantize), 3 * kWork);
    EXPECT_GE(times.of(Phase::other), 3 * kWork);
    EXPECT_GE(times.total, 9 * kWork);
    EXPECT_EQ(times.of(Phase::head), 0);
    EXPECT_EQ(times.of(Phase::barrier) > 0, threads > 1);
    double sum = 0;
    for (const double seconds : times.phases) sum += seconds;
    EXPECT_NEAR(sum, times.total, 1e-9);
  }
}

TEST(StepProfile, WaitingIsSetApartFromThePhaseItInterrupts) {
  PhaseClock clock;
  clock.start();
  enter_phase(Phase::head);
  {
    const WithinPhase waiting(Phase::barrier);
    work(kWork);
  }
  EXPECT_EQ(clock.enter(Phase::other), Phase::head);
  clock.stop();
  EXPECT_GE(std::chrono::duration<double>(clock.spent(Phase::barrier)).count(), kWork);
  EXPECT_EQ(PhaseClock::running, nullptr);
}

TEST(StepProfile, NothingIsMeasuredUnlessAskedFor) {
  ThreadPool pool(2);
  StepProfile profile(2);
  step(profile, pool);
  EXPECT_EQ(profile.take().total, 0);
  profile.set_on(true);
  step(profile, pool);
  EXPECT_GT(profile.take().total, 0);
  EXPECT_EQ(profile.take().total, 0) << "what was taken is gone";
  profile.set_on(false);
  step(profile, pool);
  EXPECT_EQ(profile.take().total, 0);
}

TEST(MultiplyPeak, NoneForScalarCode) {
  EXPECT_EQ(multiply_peak("scalar", 1).instruction, "");
  EXPECT_EQ(multiply_peak("scalar", 1).gmacs, 0);
}

}  // namespace
}  // namespace wf::engine
