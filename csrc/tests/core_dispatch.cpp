#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "dispatch.h"

namespace wf {
namespace {

TEST(Dispatch, ScalarIsAlwaysThereAndLast) {
  const char* names[8];
  const int count = available(names, 8);
  ASSERT_GE(count, 1);
  EXPECT_STREQ(names[count - 1], "scalar");
  EXPECT_EQ(find("no_such_isa"), nullptr);
}

TEST(Dispatch, NamesLeadToTheirTables) {
  const char* names[8];
  const int count = available(names, 8);
  for (int i = 0; i < count; ++i) {
    const KernelTable* table = find(names[i]);
    ASSERT_NE(table, nullptr);
    EXPECT_STREQ(table->isa, names[i]);
  }
}

TEST(Dispatch, ShortNameListIsNotOverrun) {
  const char* names[2] = {nullptr, nullptr};
  EXPECT_GE(available(names, 1), 1);
  EXPECT_EQ(names[1], nullptr);
}

// The choice is made once per process, so these look at whatever WF_ISA this process was given;
// ctest runs the file with several values.
TEST(Dispatch, ActiveFollowsTheEnvironment) {
  const char* wanted = std::getenv("WF_ISA");
  if (wanted == nullptr || *wanted == '\0') {
    const char* best = nullptr;
    available(&best, 1);
    EXPECT_STREQ(active().isa, best);
    EXPECT_EQ(isa_error(), nullptr);
  } else if (find(wanted) != nullptr) {
    EXPECT_STREQ(active().isa, wanted);
    EXPECT_EQ(isa_error(), nullptr);
  } else {
    EXPECT_STREQ(active().isa, "scalar");
    const std::string error = isa_error();
    EXPECT_NE(error.find(wanted), std::string::npos);
    EXPECT_NE(error.find("scalar"), std::string::npos);
  }
}

// WF_EXPECTED_ISA is what the caller knows this processor to deserve, emulated ones for example.
TEST(Dispatch, BestIsWhatTheProcessorDeserves) {
  const char* expected = std::getenv("WF_EXPECTED_ISA");
  if (expected == nullptr) GTEST_SKIP() << "WF_EXPECTED_ISA is not set";
  const char* best = nullptr;
  available(&best, 1);
  EXPECT_STREQ(best, expected);
}

}  // namespace
}  // namespace wf
