#include "gguf.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <unordered_set>

#include "error.h"
#include "json.h"

namespace wf::engine {

namespace {

constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxTensorNameBytes = 63;  // ggml's GGML_MAX_NAME with its terminator is 64
constexpr uint32_t kMaxAlignment = 65536;
constexpr uint32_t kMxfp4 = 39;
// Smallest encodings: key length 8 + 1 byte + type 4 + value 1; name length 8 + 1 byte +
// dimension count 4 + one dimension 8 + type 4 + offset 8.
constexpr uint64_t kMinEntryBytes = 14;
constexpr uint64_t kMinTensorBytes = 33;

enum ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

uint64_t min_value_bytes(uint32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kString:  // its length
    case kUint64:
    case kInt64:
    case kFloat64:
      return 8;
    default:
      return 0;
  }
}

uint64_t round_up(uint64_t value, uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

// Reads fields in order through a buffer, each checked against the end of the file.
class GgufFile::Cursor {
 public:
  explicit Cursor(const File& file) : file_(file) {}

  uint64_t offset() const { return offset_; }
  uint64_t left() const { return file_.size() - offset_; }

  template <typename T>
  T read(const std::string& field) {
    T value{};
    copy(&value, sizeof(T), field);
    return value;
  }

  template <typename T>
  std::vector<T> read_items(uint64_t count, const std::string& field) {
    std::vector<T> items(count);
    if (count > 0) copy(items.data(), count * sizeof(T), field);
    return items;
  }

  std::string read_string(const std::string& field, uint64_t max_bytes) {
    const uint64_t begin = offset_;
    const auto bytes = read<uint64_t>(field + " length");
    if (bytes > max_bytes || bytes > left()) {
      throw FormatError(file_.path(), field + " length", begin,
                        std::to_string(bytes) + " bytes, allowed are " +
                            std::to_string(std::min(max_bytes, left())));
    }
    std::string text(bytes, '\0');
    copy(text.data(), bytes, field);
    return text;
  }

  // Refuses a count that cannot fit in the rest of the file.
  void check_count(uint64_t count, uint64_t min_bytes_each, const std::string& field,
                   uint64_t at) const {
    if (count > left() / min_bytes_each) {
      throw FormatError(file_.path(), field, at,
                        std::to_string(count) + " is more than the rest of the file can hold");
    }
  }

 private:
  void copy(void* out, uint64_t bytes, const std::string& field) {
    auto* target = static_cast<uint8_t*>(out);
    if (bytes >= sizeof(buffer_)) {
      file_.read(offset_, target, bytes, field);
      offset_ += bytes;
      return;
    }
    if (offset_ < buffer_begin_ || offset_ + bytes > buffer_begin_ + buffer_bytes_) {
      buffer_begin_ = offset_;
      buffer_bytes_ = std::min<uint64_t>(sizeof(buffer_), left());
      if (bytes > buffer_bytes_) file_.read(offset_, target, bytes, field);  // throws
      file_.read(buffer_begin_, buffer_, buffer_bytes_, field);
    }
    std::memcpy(target, buffer_ + (offset_ - buffer_begin_), bytes);
    offset_ += bytes;
  }

  const File& file_;
  uint64_t offset_ = 0;
  uint64_t buffer_begin_ = 0;
  uint64_t buffer_bytes_ = 0;
  uint8_t buffer_[16384];
};

int64_t GgufTensor::rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

GgufFile::GgufFile(const std::string& path) : file_(path) {
  try {
    read();
  } catch (const std::bad_alloc&) {
    throw FormatError(path, "memory does not suffice for its metadata and tensor table");
  }
}

void GgufFile::read() {
  Cursor cursor(file_);
  char magic[4];
  const auto word = cursor.read<uint32_t>("magic");
  std::memcpy(magic, &word, 4);
  if (std::memcmp(magic, "GGUF", 4) != 0) {
    throw FormatError(file_.path(), "magic", 0, "not a GGUF file");
  }
  version_ = cursor.read<uint32_t>("version");
  if (version_ != 2 && version_ != 3) {
    throw FormatError(file_.path(), "version", 4,
                      std::to_string(version_) + " is not supported (2 and 3 are, little-endian)");
  }
  const auto tensor_count = cursor.read<uint64_t>("tensor count");
  cursor.check_count(tensor_count, kMinTensorBytes, "tensor count", 8);
  const auto entry_count = cursor.read<uint64_t>("metadata count");
  cursor.check_count(entry_count, kMinEntryBytes, "metadata count", 16);
  read_metadata(cursor, entry_count);
  choose_alignment();
  refuse_part();
  read_tensors(cursor, tensor_count);
  place_tensors(round_up(cursor.offset(), alignment_));
}

void GgufFile::read_metadata(Cursor& cursor, uint64_t count) {
  std::unordered_set<std::string> seen;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t begin = cursor.offset();
    std::string key = cursor.read_string("key", kMaxKeyBytes);
    if (key.empty() || key.find('\0') != std::string::npos || !is_utf8(key)) {
      throw FormatError(file_.path(), "key", begin, "empty, with a NUL, or not UTF-8");
    }
    if (!seen.insert(key).second) {
      throw FormatError(file_.path(), "key", begin, "'" + key + "' is there twice");
    }
    GgufValue value = read_value(cursor, key);
    metadata_.emplace_back(std::move(key), std::move(value));
  }
}

GgufValue GgufFile::read_value(Cursor& cursor, const std::string& key) const {
  const uint64_t begin = cursor.offset();
  GgufValue value;
  auto type = cursor.read<uint32_t>(key + " type");
  uint64_t count = 1;
  if (type == kArray) {
    value.is_array = true;
    type = cursor.read<uint32_t>(key + " item type");
    count = cursor.read<uint64_t>(key + " array length");
    if (type == kArray) throw FormatError(file_.path(), key, begin, "arrays of arrays");
  }
  if (min_value_bytes(type) == 0) {
    throw FormatError(file_.path(), key + " type", begin,
                      std::to_string(type) + " is no metadata type (0 to 12)");
  }
  cursor.check_count(count, min_value_bytes(type), key + " array length", begin);
  value.items = read_items(cursor, type, count, key);
  return value;
}

GgufItems GgufFile::read_items(Cursor& cursor, uint32_t type, uint64_t count,
                               const std::string& key) const {
  switch (type) {
    case kUint8:
      return cursor.read_items<uint8_t>(count, key);
    case kInt8:
      return cursor.read_items<int8_t>(count, key);
    case kUint16:
      return cursor.read_items<uint16_t>(count, key);
    case kInt16:
      return cursor.read_items<int16_t>(count, key);
    case kUint32:
      return cursor.read_items<uint32_t>(count, key);
    case kInt32:
      return cursor.read_items<int32_t>(count, key);
    case kUint64:
      return cursor.read_items<uint64_t>(count, key);
    case kInt64:
      return cursor.read_items<int64_t>(count, key);
    case kFloat32:
      return cursor.read_items<float>(count, key);
    case kFloat64:
      return cursor.read_items<double>(count, key);
    case kBool: {
      const uint64_t begin = cursor.offset();
      auto items = cursor.read_items<GgufBool>(count, key);
      for (const GgufBool item : items) {
        if (item > GgufBool::yes) {
          throw FormatError(file_.path(), key, begin, "a bool that is not 0 or 1");
        }
      }
      return items;
    }
    default: {
      std::vector<std::string> items(count);
      for (std::string& item : items) item = cursor.read_string(key, cursor.left());
      return items;
    }
  }
}

void GgufFile::choose_alignment() {
  const GgufValue* value = find("general.alignment");
  if (value == nullptr) return;
  const auto* items = std::get_if<std::vector<uint32_t>>(&value->items);
  const uint64_t given = items != nullptr && !value->is_array ? items->front() : 0;
  if (given < 8 || given > kMaxAlignment || (given & (given - 1)) != 0) {
    throw FormatError(file_.path(), "general.alignment must be a uint32 power of two from 8 to " +
                                        std::to_string(kMaxAlignment));
  }
  alignment_ = static_cast<uint32_t>(given);
}

// llama-gguf-split writes a model as several files, each with some of the tensors.
void GgufFile::refuse_part() const {
  const GgufValue* count = find("split.count");
  if (count == nullptr) return;
  const GgufScalar scalar = count->is_array ? GgufScalar(std::string()) : count->item(0);
  const auto* number = std::get_if<uint64_t>(&scalar);
  if (number == nullptr || *number > 1) {
    throw FormatError(file_.path(),
                      "is one part of a model; join the parts with llama-gguf-split --merge");
  }
}

GgufTensor GgufFile::read_tensor(Cursor& cursor) const {
  const std::string& path = file_.path();
  GgufTensor tensor;
  uint64_t begin = cursor.offset();
  tensor.name = cursor.read_string("tensor name", kMaxTensorNameBytes);
  const bool plain = std::all_of(tensor.name.begin(), tensor.name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
  if (tensor.name.empty() || !plain) {
    throw FormatError(path, "tensor name", begin,
                      "only letters, digits, '.', '_' and '-' may be in");
  }
  const std::string label = "tensor '" + tensor.name + "'";
  begin = cursor.offset();
  const auto dimensions = cursor.read<uint32_t>(label + " dimension count");
  if (dimensions < 1 || dimensions > 4) {
    throw FormatError(path, label + " dimension count", begin,
                      std::to_string(dimensions) + ", allowed are 1 to 4");
  }
  uint64_t rows = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    begin = cursor.offset();
    const auto size = cursor.read<uint64_t>(label + " dimension");
    if (size == 0 || size >> 62 || (i > 0 && __builtin_mul_overflow(rows, size, &rows))) {
      throw FormatError(path, label + " dimension", begin, "zero or too large");
    }
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
  }
  begin = cursor.offset();
  const auto type_id = cursor.read<uint32_t>(label + " type");
  tensor.type = find_gguf_type(type_id);
  if (tensor.type == nullptr) {
    if (const char* advice = foreign_gguf_type(type_id)) {
      throw FormatError(path, label + " type", begin,
                        "id " + std::to_string(type_id) + " is " + advice);
    }
    throw FormatError(
        path, label + " type", begin,
        "unknown id " + std::to_string(type_id) + " (known: " + gguf_type_list() + ")");
  }
  tensor.bytes = gguf_tensor_bytes(*tensor.type, static_cast<uint64_t>(tensor.columns()), rows);
  if (tensor.bytes == 0) {
    throw FormatError(path, label + " dimension", begin,
                      "rows of " + std::to_string(tensor.columns()) + " weights do not fit " +
                          tensor.type->name + " blocks of " +
                          std::to_string(tensor.type->block_weights) + ", or the size overflows");
  }
  tensor.offset = cursor.read<uint64_t>(label + " offset");
  return tensor;
}

void GgufFile::read_tensors(Cursor& cursor, uint64_t count) {
  std::unordered_set<std::string> seen;
  tensors_.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t begin = cursor.offset();
    tensors_.push_back(read_tensor(cursor));
    if (!seen.insert(tensors_.back().name).second) {
      throw FormatError(file_.path(), "tensor name", begin,
                        "'" + tensors_.back().name + "' is there twice");
    }
  }
}

// Data of the tensors follow each other in the order of the table, each padded to the alignment.
// Any other offset means that a type's size is not what its writer thought (forks reuse type ids)
// or that tensors overlap, so it is refused rather than trusted.
void GgufFile::place_tensors(uint64_t data_begin) {
  uint64_t expected = 0;
  const char* doubt = "; another program may use one of the type ids for another layout";
  for (GgufTensor& tensor : tensors_) {
    const std::string label = "tensor '" + tensor.name + "'";
    if (tensor.offset != expected) {
      throw FormatError(file_.path(), label + " offset", data_begin,
                        "is " + std::to_string(tensor.offset) + ", but the data before it end at " +
                            std::to_string(expected) + doubt);
    }
    if (tensor.type->id == kMxfp4) {
      doubt = "; type id 39 is MXFP4, but bitnet.cpp uses it for TL2: convert its I2_S file";
    }
    if (tensor.bytes > file_.size() || expected > file_.size()) {
      throw FormatError(file_.path(), label, data_begin, "is larger than the file");
    }
    expected = round_up(expected + tensor.bytes, alignment_);
    tensor.offset += data_begin;
    if (tensor.offset > file_.size() || tensor.bytes > file_.size() - tensor.offset) {
      throw FormatError(file_.path(), label + " data", tensor.offset,
                        "needs " + std::to_string(tensor.bytes) + " bytes, but the file ends at " +
                            std::to_string(file_.size()) + " (truncated?)");
    }
  }
}

const GgufValue* GgufFile::find(const std::string& key) const {
  for (const auto& [name, value] : metadata_) {
    if (name == key) return &value;
  }
  return nullptr;
}

const GgufTensor* GgufFile::find_tensor(const std::string& name) const {
  for (const GgufTensor& tensor : tensors_) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

}  // namespace wf::engine
