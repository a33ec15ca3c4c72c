// Files built byte by byte, for tests and fuzzing.
#pragma once

#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
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
  explicit TemporaryDirectory(
      const std::filesystem::path& parent = std::filesystem::temp_directory_path()) {
    std::string pattern = (parent / "wf_test_XXXXXX").string();
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

}  // namespace wf::engine
