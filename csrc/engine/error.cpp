#include "error.h"

#include <algorithm>
#include <utility>

#include "json.h"

namespace wf::engine {

std::string one_line(std::string text) {
  const bool has_utf8 = is_utf8(text);
  std::replace_if(
      text.begin(), text.end(),
      [=](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return byte < 0x20 || byte == 0x7f || (byte > 0x7f && !has_utf8);
      },
      '?');
  return text;
}

}  // namespace wf::engine
