#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpus.h"
#include "error.h"
#include "thread_pool.h"

namespace wf::engine {
namespace {

TEST(ThreadPool, BarriersKeepPhasesApart) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    std::vector<int> stage(static_cast<size_t>(threads), 0);
    bool is_ordered = true;
    for (int job = 0; job < 20; ++job) {
      pool.run([&](int thread) {
        for (int phase = 0; phase < 20; ++phase) {
          ++stage[static_cast<size_t>(thread)];
          pool.barrier();
          for (const int other : stage) {
            if (other != stage[0]) is_ordered = false;
          }
          pool.barrier();
        }
      });
    }
    EXPECT_TRUE(is_ordered);
    EXPECT_EQ(stage, std::vector<int>(static_cast<size_t>(threads), 400));
  }
}

TEST(ThreadPool, AForkedProcessGetsAnErrorAndDoesNotHang) {
  ThreadPool pool(2);
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 1;
    try {
      pool.run([](int) {});
    } catch (const ModelError&) {
      status = 0;
    }
    ::_exit(status);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(Cpus, AtLeastOneAndAtMostTheMachines) {
  EXPECT_GE(usable_cpus(), 1);
  EXPECT_LE(usable_cpus(), static_cast<int>(::sysconf(_SC_NPROCESSORS_CONF)));
}

}  // namespace
}  // namespace wf::engine
