// What the engine throws. Both kinds carry one line that a user can act on.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace wf::engine {

// `text` as one printable line of UTF-8: it may quote names and values from a file that can hold
// anything, and Python takes no other text for a message.
std::string one_line(std::string text);

// The bytes of a file are not what its format says: names the file, the field and the offset.
class FormatError : public std::runtime_error {
 public:
  FormatError(const std::string& file, const std::string& field, uint64_t offset,
              const std::string& problem)
      : FormatError(file, field + " at byte " + std::to_string(offset) + ": " + problem) {}
  FormatError(const std::string& file, const std::string& problem)
      : std::runtime_error(one_line(file + ": " + problem)) {}
};

// The file is well-formed, but this engine cannot run what it describes, or was asked for
// something the model cannot do.
class ModelError : public std::runtime_error {
 public:
  explicit ModelError(const std::string& problem) : std::runtime_error(one_line(problem)) {}
};

}  // namespace wf::engine
