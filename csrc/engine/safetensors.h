// Reader of safetensors files, single or sharded (model.safetensors.index.json).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "file.h"

namespace wf::engine {

struct SafetensorsEntry {
  std::string dtype;  // "F32", "F16", "BF16", "U8", ...
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // in the file
  uint64_t bytes = 0;
  std::shared_ptr<const File> file;
};

// Every tensor of the directory's model by name. Throws FormatError.
std::map<std::string, SafetensorsEntry> read_safetensors_directory(const std::string& directory);

// Every tensor of one file by name. Shapes, spans and overlaps are checked.
std::map<std::string, SafetensorsEntry> read_safetensors_file(const std::string& path);

}  // namespace wf::engine
