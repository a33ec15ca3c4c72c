// A read-only file, read by pread with every range checked. Nothing is mapped: a file that
// shrinks while it is read gives an error, never a signal.
#pragma once

#include <time.h>

#include <cstdint>
#include <string>
#include <vector>

namespace wf::engine {

class File {
 public:
  // Throws FormatError when `path` cannot be opened or is not a regular file.
  explicit File(std::string path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }

  // Reads exactly `bytes` bytes at `offset`; `field` names what they are in the error text.
  void read(uint64_t offset, void* out, uint64_t bytes, const std::string& field) const;
  std::vector<uint8_t> read_all() const;
  // Throws FormatError when the file was written to since it was opened: what was read may be a
  // mixture of two files.
  void check_unchanged() const;

 private:
  std::string path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
  timespec modified_{};
};

}  // namespace wf::engine
