// Reader of GGUF files, versions 2 and 3: metadata and the table of tensors.
//
// The file is untrusted. Every count is checked against the bytes that are left before anything is
// allocated, every product is checked in 64 bits, and offsets must be exactly where the format
// says.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "file.h"
#include "gguf_types.h"

namespace wf::engine {

// Items of one type; there may be billions. Numbers take the file's bytes, strings four times them.
enum class GgufBool : uint8_t { no, yes };
using GgufItems =
    std::variant<std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>,
                 std::vector<int16_t>, std::vector<uint32_t>, std::vector<int32_t>,
                 std::vector<uint64_t>, std::vector<int64_t>, std::vector<float>,
                 std::vector<double>, std::vector<GgufBool>, std::vector<std::string>>;

// One of them. Integers of all widths are int64 or uint64, floats are double.
using GgufScalar = std::variant<uint64_t, int64_t, double, bool, std::string>;

template <typename T>
GgufScalar gguf_scalar(const T& item) {
  if constexpr (std::is_same_v<T, std::string>) {
    return item;
  } else if constexpr (std::is_same_v<T, GgufBool>) {
    return item == GgufBool::yes;
  } else if constexpr (std::is_floating_point_v<T>) {
    return double{item};
  } else if constexpr (std::is_signed_v<T>) {
    return int64_t{item};
  } else {
    return uint64_t{item};
  }
}

// A metadata value.
struct GgufValue {
  bool is_array = false;
  GgufItems items;  // one unless is_array

  size_t size() const {
    return std::visit([](const auto& values) { return values.size(); }, items);
  }
  GgufScalar item(size_t index) const {
    return std::visit([&](const auto& values) { return gguf_scalar(values[index]); }, items);
  }
};

struct GgufTensor {
  std::string name;
  const GgufTypeInfo* type = nullptr;
  std::vector<int64_t> shape;  // rows first, as in numpy: the file's order reversed
  uint64_t offset = 0;         // in the file
  uint64_t bytes = 0;

  int64_t columns() const { return shape.back(); }
  int64_t rows() const;
};

class GgufFile {
 public:
  // Throws FormatError for anything that is wrong, and when memory does not suffice.
  explicit GgufFile(const std::string& path);

  const File& file() const { return file_; }
  uint32_t version() const { return version_; }
  uint32_t alignment() const { return alignment_; }
  const std::vector<std::pair<std::string, GgufValue>>& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }

  const GgufValue* find(const std::string& key) const;
  const GgufTensor* find_tensor(const std::string& name) const;

 private:
  class Cursor;
  GgufValue read_value(Cursor& cursor, const std::string& key) const;
  GgufItems read_items(Cursor& cursor, uint32_t type, uint64_t count, const std::string& key) const;
  void read();
  void read_metadata(Cursor& cursor, uint64_t count);
  void read_tensors(Cursor& cursor, uint64_t count);
  GgufTensor read_tensor(Cursor& cursor) const;
  void place_tensors(uint64_t data_begin);
  void choose_alignment();
  void refuse_part() const;

  File file_;
  uint32_t version_ = 0;
  uint32_t alignment_ = 32;
  std::vector<std::pair<std::string, GgufValue>> metadata_;
  std::vector<GgufTensor> tensors_;
};

}  // namespace wf::engine
