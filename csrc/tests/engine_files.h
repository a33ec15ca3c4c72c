// Files built byte by byte, for the reader tests.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

namespace wf::engine {

// Little-endian bytes, appended field by field.
class Bytes {
 public:
  template <typename T>
  Bytes& put(T value) {
    const auto* p = reinterpret_cast<const char*>(&value);
    data_.append(p, sizeof(T));
    return *this;
  }
  Bytes& raw(const std::string& text) {
    data_ += text;
    return *this;
  }
  // As GGUF stores strings: the length first.
  Bytes& string(const std::string& text) { return put<uint64_t>(text.size()).raw(text); }
  Bytes& pad(size_t multiple) {
    while (data_.size() % multiple != 0) data_ += '\0';
    return *this;
  }
  const std::string& data() const { return data_; }

 private:
  std::string data_;
};

// A directory that is gone after the test.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "wf_test_XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }

  std::string write(const std::string& name, const std::string& bytes) const {
    const std::string path = path_ + "/" + name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

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
