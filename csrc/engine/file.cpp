#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "error.h"

namespace wf::engine {

File::File(std::string path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) throw FormatError(path_, std::strerror(errno));
  struct stat status{};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    throw FormatError(path_, "not a regular file");
  }
  size_ = static_cast<uint64_t>(status.st_size);
  modified_ = status.st_mtim;
}

File::~File() { ::close(descriptor_); }

void File::read(uint64_t offset, void* out, uint64_t bytes, const std::string& field) const {
  if (offset > size_ || bytes > size_ - offset) {
    throw FormatError(path_, field, offset,
                      "needs " + std::to_string(bytes) + " bytes, but the file has " +
                          std::to_string(size_) + " (truncated?)");
  }
  auto* target = static_cast<uint8_t*>(out);
  while (bytes > 0) {
    // One pread moves at most 2 GiB on Linux.
    const size_t wanted = static_cast<size_t>(std::min<uint64_t>(bytes, 1u << 30));
    const ssize_t got = ::pread(descriptor_, target, wanted, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      throw FormatError(path_, field, offset,
                        got < 0 ? std::strerror(errno) : "the file became shorter while read");
    }
    target += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<uint64_t>(got);
  }
}

void File::check_unchanged() const {
  struct stat status{};
  if (::fstat(descriptor_, &status) != 0) throw FormatError(path_, std::strerror(errno));
  if (status.st_mtim.tv_sec != modified_.tv_sec || status.st_mtim.tv_nsec != modified_.tv_nsec) {
    throw FormatError(path_, "the file was changed while it was read");
  }
}

std::vector<uint8_t> File::read_all() const {
  std::vector<uint8_t> bytes(size_);
  read(0, bytes.data(), size_, "contents");
  return bytes;
}

}  // namespace wf::engine
