// Reader of GGUF files, versions 2 and 3: metadata and the table of tensors.
//
// The file is untrusted. Every count is checked against the bytes that are left before anything is
// allocated, every product is checked in 64 bits, and offsets must be exactly where the format
// says.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "file.h"
#include "gguf_types.h"

namespace wf::engine {

// A metadata value. Integers of all widths are int64 or uint64, floats are double.
using GgufScalar = std::variant<uint64_t, int64_t, double, bool, std::string>;

struct GgufValue {
  enum class Kind { unsigned_integer, signed_integer, real, boolean, string };
  Kind kind = Kind::unsigned_integer;  // of the value, or of each item of an array
  bool is_array = false;
  bool is_u32 = false;
  std::vector<GgufScalar> items;  // one unless is_array
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
