#include "json.h"

#include <charconv>
#include <cmath>
#include <set>

#include "error.h"

namespace wf::engine {

namespace {
constexpr int kMaxDepth = 64;

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}
}  // namespace

class JsonParser {
 public:
  JsonParser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  Json document() {
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) fail("text after the end of the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw FormatError(file_, "JSON", at_, problem);
  }

  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }

  char peek() {
    skip_space();
    if (at_ == text_.size()) fail("ends too early");
    return text_[at_];
  }

  void expect(char c) {
    if (peek() != c) fail(std::string("expected '") + c + "'");
    ++at_;
  }

  bool accept(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }

  void expect_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) fail("unknown word");
    at_ += word.size();
  }

  Json parse_value(int depth) {
    if (depth > kMaxDepth) fail("nested deeper than " + std::to_string(kMaxDepth));
    Json value;
    switch (peek()) {
      case '{':
        value.value_ = parse_object(depth);
        break;
      case '[':
        value.value_ = parse_array(depth);
        break;
      case '"':
        value.value_ = parse_string();
        break;
      case 't':
        expect_word("true");
        value.value_ = true;
        break;
      case 'f':
        expect_word("false");
        value.value_ = false;
        break;
      case 'n':
        expect_word("null");
        break;
      default:
        parse_number(value);
    }
    return value;
  }

  Json::Object parse_object(int depth) {
    Json::Object members;
    std::set<std::string> seen;
    expect('{');
    if (accept('}')) return members;
    do {
      if (peek() != '"') fail("expected a member name");
      std::string key = parse_string();
      if (!seen.insert(key).second) fail("duplicate key '" + key + "'");
      expect(':');
      Json value = parse_value(depth + 1);
      members.emplace_back(std::move(key), std::move(value));
    } while (accept(','));
    expect('}');
    return members;
  }

  Json::Array parse_array(int depth) {
    Json::Array items;
    expect('[');
    if (accept(']')) return items;
    do {
      items.push_back(parse_value(depth + 1));
    } while (accept(','));
    expect(']');
    return items;
  }

  uint32_t parse_hex4() {
    if (text_.size() - at_ < 4) fail("short \\u escape");
    uint32_t code = 0;
    const char* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, begin + 4, code, 16);
    if (error != std::errc() || end != begin + 4) fail("bad \\u escape");
    at_ += 4;
    return code;
  }

  void parse_unicode_escape(std::string& out) {
    uint32_t code = parse_hex4();
    if (code >= 0xD800 && code < 0xDC00) {
      if (text_.substr(at_, 2) != "\\u") fail("lone surrogate");
      at_ += 2;
      const uint32_t low = parse_hex4();
      if (low < 0xDC00 || low > 0xDFFF) fail("lone surrogate");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code <= 0xDFFF) {
      fail("lone surrogate");
    }
    append_utf8(out, code);
  }

  std::string parse_string() {
    std::string out;
    ++at_;  // the opening quote
    for (;;) {
      if (at_ == text_.size()) fail("unterminated string");
      const char c = text_[at_++];
      if (c == '"') break;
      if (static_cast<unsigned char>(c) < 0x20) fail("control character in a string");
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at_ == text_.size()) fail("unterminated string");
      const char escape = text_[at_++];
      switch (escape) {
        case '"':
        case '\\':
        case '/':
          out += escape;
          break;
        case 'b':
          out += '\b';
          break;
        case 'f':
          out += '\f';
          break;
        case 'n':
          out += '\n';
          break;
        case 'r':
          out += '\r';
          break;
        case 't':
          out += '\t';
          break;
        case 'u':
          parse_unicode_escape(out);
          break;
        default:
          fail("unknown escape");
      }
    }
    if (!is_utf8(out)) fail("string is not UTF-8");
    return out;
  }

  void parse_number(Json& value) {
    const char* begin = text_.data() + at_;
    const char* end = text_.data() + text_.size();
    int64_t integer = 0;
    double real = 0;
    const auto as_integer = std::from_chars(begin, end, integer);
    const auto as_real = std::from_chars(begin, end, real);
    if (as_real.ec != std::errc() || !std::isfinite(real)) fail("expected a value");
    if (as_integer.ec == std::errc() && as_integer.ptr == as_real.ptr) {
      value.value_ = integer;
    } else {
      value.value_ = real;
    }
    at_ += static_cast<size_t>(as_real.ptr - begin);
  }

  std::string_view text_;
  const std::string& file_;
  size_t at_ = 0;
};

Json Json::parse(std::string_view text, const std::string& file) {
  return JsonParser(text, file).document();
}

const Json* Json::find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const auto& [name, value] : object()) {
    if (name == key) return &value;
  }
  return nullptr;
}

bool is_utf8(std::string_view bytes) {
  const auto* p = reinterpret_cast<const unsigned char*>(bytes.data());
  const auto* end = p + bytes.size();
  while (p < end) {
    const unsigned char lead = *p++;
    if (lead < 0x80) continue;
    int extra = 0;
    uint32_t code = 0;
    uint32_t smallest = 0;
    if ((lead & 0xE0) == 0xC0) {
      extra = 1, code = lead & 0x1F, smallest = 0x80;
    } else if ((lead & 0xF0) == 0xE0) {
      extra = 2, code = lead & 0x0F, smallest = 0x800;
    } else if ((lead & 0xF8) == 0xF0) {
      extra = 3, code = lead & 0x07, smallest = 0x10000;
    } else {
      return false;
    }
    if (end - p < extra) return false;
    for (int i = 0; i < extra; ++i) {
      if ((*p & 0xC0) != 0x80) return false;
      code = (code << 6) | (*p++ & 0x3F);
    }
    if (code < smallest || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return false;
  }
  return true;
}

}  // namespace wf::engine
