// What the reader tests share: files built byte by byte, and the errors they must give.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>

#include "bytes.h"

namespace wf::engine {

// The message of the Error that `action` throws; fails the test when there is none, or when it is
// not one line.
template <typename Error>
std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(std::strchr(error.what(), '\n'), nullptr) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

}  // namespace wf::engine
