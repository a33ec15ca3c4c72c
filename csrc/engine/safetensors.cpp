#include "safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <set>

#include "error.h"
#include "json.h"

namespace wf::engine {

namespace {

constexpr uint64_t kMaxHeaderBytes = 100u << 20;  // the format's own limit

uint64_t dtype_bytes(const std::string& dtype) {
  static constexpr std::array<std::pair<const char*, uint64_t>, 12> kSizes = {{{"F64", 8},
                                                                               {"I64", 8},
                                                                               {"U64", 8},
                                                                               {"F32", 4},
                                                                               {"I32", 4},
                                                                               {"U32", 4},
                                                                               {"F16", 2},
                                                                               {"BF16", 2},
                                                                               {"I16", 2},
                                                                               {"U8", 1},
                                                                               {"I8", 1},
                                                                               {"BOOL", 1}}};
  for (const auto& [name, bytes] : kSizes) {
    if (dtype == name) return bytes;
  }
  return 0;
}

// The member `key` as a list of non-negative integers.
std::vector<int64_t> integers(const Json& entry, const char* key, const std::string& tensor,
                              const std::string& path) {
  const Json* list = entry.find(key);
  if (list == nullptr || !list->is_array()) {
    throw FormatError(path, "tensor '" + tensor + "': no list '" + key + "'");
  }
  std::vector<int64_t> values;
  for (const Json& item : list->array()) {
    if (!item.is_integer() || item.integer() < 0) {
      throw FormatError(path, "tensor '" + tensor + "': '" + key + "' has a bad number");
    }
    values.push_back(item.integer());
  }
  return values;
}

SafetensorsEntry parse_entry(const std::string& name, const Json& json, uint64_t data_begin,
                             const std::shared_ptr<const File>& file) {
  const std::string& path = file->path();
  SafetensorsEntry entry;
  entry.file = file;
  const Json* dtype = json.find("dtype");
  if (dtype == nullptr || !dtype->is_string() || dtype_bytes(dtype->string()) == 0) {
    throw FormatError(path, "tensor '" + name + "': unknown dtype");
  }
  entry.dtype = dtype->string();
  entry.shape = integers(json, "shape", name, path);
  uint64_t bytes = dtype_bytes(entry.dtype);
  for (const int64_t dim : entry.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dim), &bytes)) {
      throw FormatError(path, "tensor '" + name + "': its size overflows");
    }
  }
  const std::vector<int64_t> span = integers(json, "data_offsets", name, path);
  const uint64_t data_bytes = file->size() - data_begin;
  if (span.size() != 2 || span[0] > span[1] || static_cast<uint64_t>(span[1]) > data_bytes) {
    throw FormatError(path, "tensor '" + name + "': data_offsets are out of the file's " +
                                std::to_string(data_bytes) + " data bytes");
  }
  entry.offset = data_begin + static_cast<uint64_t>(span[0]);
  entry.bytes = static_cast<uint64_t>(span[1] - span[0]);
  if (entry.bytes != bytes) {
    throw FormatError(path, "tensor '" + name + "': shape and dtype need " + std::to_string(bytes) +
                                " bytes, data_offsets give " + std::to_string(entry.bytes));
  }
  return entry;
}

void refuse_overlaps(const std::map<std::string, SafetensorsEntry>& entries,
                     const std::string& path) {
  std::vector<std::pair<uint64_t, uint64_t>> spans;
  for (const auto& [name, entry] : entries) spans.emplace_back(entry.offset, entry.bytes);
  std::sort(spans.begin(), spans.end());
  for (size_t i = 1; i < spans.size(); ++i) {
    if (spans[i].first < spans[i - 1].first + spans[i - 1].second) {
      throw FormatError(path, "data_offsets", spans[i].first, "tensors overlap");
    }
  }
}

// A shard name from the index: a plain file name, so that it cannot leave the directory.
std::string shard_name(const Json& value, const std::string& index_path) {
  if (!value.is_string() || value.string().empty() ||
      value.string().find('/') != std::string::npos || value.string().starts_with(".")) {
    throw FormatError(index_path, "weight_map must name files of the same directory");
  }
  return value.string();
}

std::map<std::string, SafetensorsEntry> read_sharded(const std::string& directory,
                                                     const std::string& index_path) {
  const std::vector<uint8_t> bytes = File(index_path).read_all();
  const Json index =
      Json::parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, index_path);
  const Json* weight_map = index.find("weight_map");
  if (weight_map == nullptr || !weight_map->is_object()) {
    throw FormatError(index_path, "no object 'weight_map'");
  }
  std::set<std::string> shards;
  for (const auto& [tensor, file] : weight_map->object()) {
    shards.insert(shard_name(file, index_path));
  }
  std::map<std::string, SafetensorsEntry> entries;
  for (const std::string& shard : shards) {
    for (auto& [name, entry] : read_safetensors_file(directory + "/" + shard)) {
      if (!entries.emplace(name, std::move(entry)).second) {
        throw FormatError(index_path, "tensor '" + name + "' is in two shards");
      }
    }
  }
  for (const auto& [tensor, file] : weight_map->object()) {
    if (!entries.contains(tensor)) {
      throw FormatError(index_path, "tensor '" + tensor + "' is not in its shard");
    }
  }
  return entries;
}

}  // namespace

std::map<std::string, SafetensorsEntry> read_safetensors_file(const std::string& path) {
  const auto file = std::make_shared<const File>(path);
  uint64_t header_bytes = 0;
  file->read(0, &header_bytes, sizeof(header_bytes), "header length");
  if (header_bytes > kMaxHeaderBytes || header_bytes > file->size() - 8) {
    throw FormatError(
        path, "header length", 0,
        std::to_string(header_bytes) + " bytes is more than the file or the " + "format allows");
  }
  std::string text(header_bytes, '\0');
  file->read(8, text.data(), header_bytes, "header");
  const Json header = Json::parse(text, path);
  if (!header.is_object()) throw FormatError(path, "header", 8, "is not an object");
  std::map<std::string, SafetensorsEntry> entries;
  for (const auto& [name, json] : header.object()) {
    if (name == "__metadata__") continue;
    entries.emplace(name, parse_entry(name, json, 8 + header_bytes, file));
  }
  refuse_overlaps(entries, path);
  return entries;
}

std::map<std::string, SafetensorsEntry> read_safetensors_directory(const std::string& directory) {
  const std::string index_path = directory + "/model.safetensors.index.json";
  if (std::filesystem::exists(index_path)) return read_sharded(directory, index_path);
  return read_safetensors_file(directory + "/model.safetensors");
}

}  // namespace wf::engine
