// The choice of a layout for a model.
#include <gtest/gtest.h>

#include "core_problem.h"
#include "layout_choice.h"

namespace wf::test {
namespace {

constexpr std::int64_t kLarge = 500 << 20;

TEST(LayoutChoice, MemoryBoundModelsGetTheDenserLayout) {
  EXPECT_EQ(choose_layout("avx512vbmi", 2, kLarge).layout, TernaryLayout::t1);
  EXPECT_EQ(choose_layout("avx512vbmi", 1, kLarge).layout, TernaryLayout::t2);
  EXPECT_EQ(choose_layout("avx512vbmi", 2, 1 << 20).layout, TernaryLayout::t2);
}

TEST(LayoutChoice, HasARowAndAReasonForEveryTable) {
  for (const KernelTable* table : tables()) {
    for (int threads : {1, 2, 64}) {
      for (std::int64_t bytes : {std::int64_t{0}, kLarge}) {
        EXPECT_STRNE(choose_layout(table->isa, threads, bytes).reason, "");
      }
    }
  }
}

}  // namespace
}  // namespace wf::test
