#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "engine_files.h"
#include "error.h"
#include "load_workers.h"

namespace wf::engine {
namespace {

using Scratch = LoadWorkers::Scratch;

TEST(LoadWorkers, EveryRowOnceInWholePanels) {
  for (const int threads : {1, 2, 5}) {
    LoadWorkers workers(threads);
    for (const int64_t rows : {1, 16, 127, 129, 1000}) {
      for (const int64_t row_bytes : {1, 3000, 1 << 20}) {
        std::vector<std::atomic<int>> visits(static_cast<size_t>(rows));
        EXPECT_TRUE(workers.for_rows(rows, row_bytes, [&](int64_t first, int64_t count, Scratch&) {
          EXPECT_EQ(first % 16, 0);
          EXPECT_TRUE(count % 16 == 0 || first + count == rows);
          for (int64_t i = 0; i < count; ++i) ++visits[first + i];
          return true;
        }));
        EXPECT_TRUE(std::all_of(visits.begin(), visits.end(), [](int n) { return n == 1; }));
      }
    }
  }
}

// The first of two failures comes last in time, where threads allow it.
TEST(LoadWorkers, TheFirstFailureInRowOrderCounts) {
  for (const int threads : {1, 2, 5}) {
    LoadWorkers workers(threads);
    const auto run = [&](bool first_throws) {
      return workers.for_rows(4000, 1, [&](int64_t first, int64_t, Scratch&) {
        if (first < 1000) return true;
        const bool is_first = first < 1128;
        if (is_first) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        if (is_first == first_throws) throw ModelError("row " + std::to_string(first));
        return false;
      });
    };
    EXPECT_FALSE(run(false));
    EXPECT_EQ(error_of<ModelError>([&] { run(true); }), "row 1024");
    EXPECT_TRUE(workers.for_rows(4000, 1, [](auto...) { return true; })) << "fit for the next";
  }
}

TEST(LoadWorkers, ProgressOnlyGrowsAndEndsAtTheTotal) {
  for (const int threads : {1, 2, 5}) {
    std::vector<uint64_t> told;
    const std::thread::id caller = std::this_thread::get_id();
    LoadWorkers workers(threads, 300, [&](uint64_t done, uint64_t total) {
      EXPECT_EQ(std::this_thread::get_id(), caller);
      EXPECT_EQ(total, 300u);
      told.push_back(done);
    });
    for (int tensor = 0; tensor < 3; ++tensor) {
      workers.next_tensor(100);
      for (int pass = 0; pass < 2; ++pass) {
        workers.for_rows(12800, 1, [](auto...) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
          return true;
        });
      }
    }
    workers.finish();
    EXPECT_GE(told.size(), 3u);
    EXPECT_EQ(told.front(), 0u);
    EXPECT_EQ(told.back(), 300u);
    EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
  }
}

TEST(LoadWorkers, AnExceptionOfTheListenerEndsTheLoad) {
  for (const int threads : {1, 2, 5}) {
    LoadWorkers workers(threads, 1, [calls = 0](auto...) mutable {
      if (++calls == 2) throw ModelError("enough");
    });
    std::atomic<int> chunks = 0;
    const auto work = [&](auto...) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ++chunks;
      return true;
    };
    EXPECT_EQ(error_of<ModelError>([&] { workers.for_rows(1280000, 1, work); }), "enough");
    EXPECT_GT(chunks, 0);
    EXPECT_LT(chunks, 10000);
  }
}

}  // namespace
}  // namespace wf::engine
