#include "buffer.h"

#include <sys/mman.h>

#include <new>

namespace wf::engine {

namespace {
constexpr size_t kHugePage = 2u << 20;
}

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  if (bytes >= kHugePage) ::madvise(data, bytes, MADV_HUGEPAGE);  // advice: failure is harmless
  data_ = data;
}

Buffer::~Buffer() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

}  // namespace wf::engine
