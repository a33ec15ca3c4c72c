#include <gtest/gtest.h>

#include "engine_files.h"
#include "error.h"
#include "safetensors.h"

namespace wf::engine {
namespace {

std::string file_bytes(const std::string& header, size_t data_bytes) {
  return Bytes().put<uint64_t>(header.size()).raw(header).data() + std::string(data_bytes, '\x01');
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& span) {
  return "{\"a\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + span +
         "}}";
}

class Safetensors : public testing::Test {
 protected:
  auto read(const std::string& bytes) {
    return read_safetensors_file(directory_.write("model.safetensors", bytes));
  }
  std::string problem(const std::string& bytes) {
    return error_of<FormatError>([&] { read(bytes); });
  }
  TemporaryDirectory directory_;
};

TEST_F(Safetensors, ReadsNamesShapesAndOffsets) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})";
  const auto entries = read(file_bytes(header, 16));
  ASSERT_EQ(entries.size(), 2u);
  const SafetensorsEntry& b = entries.at("b");
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.offset, 8 + header.size() + 4);
  EXPECT_EQ(b.bytes, 12u);
}

TEST_F(Safetensors, RefusesBadHeaders) {
  EXPECT_NE(problem("").find("header length"), std::string::npos);
  EXPECT_NE(problem("1234567").find("truncated"), std::string::npos);
  for (const uint64_t length :
       {uint64_t{1} << 63, ~uint64_t{0}, uint64_t{100}, uint64_t{1} << 40}) {
    EXPECT_NE(problem(Bytes().put(length).raw("{}").data()).find("header length"),
              std::string::npos);
  }
  EXPECT_NE(problem(file_bytes("", 0)).find("JSON"), std::string::npos);
  EXPECT_NE(problem(file_bytes("[]", 0)).find("not an object"), std::string::npos);
  EXPECT_NE(problem(file_bytes("{\"a\":1}", 0)).find("dtype"), std::string::npos);
  EXPECT_NE(problem(file_bytes(std::string(1000, '{'), 0)).find("JSON"), std::string::npos);
}

TEST_F(Safetensors, RefusesBadEntries) {
  const std::pair<std::string, const char*> cases[] = {
      {entry("F9", "[1]", "[0,4]"), "unknown dtype"},
      {entry("F32", "[2]", "[0,4]"), "need 8 bytes"},
      {entry("F32", "[1]", "[0,40]"), "out of the file"},
      {entry("F32", "[1]", "[8,4]"), "out of the file"},
      {entry("F32", "[1]", "[-4,0]"), "bad number"},
      {entry("F32", "[-1]", "[0,4]"), "bad number"},
      {entry("F32", "[1.5]", "[0,4]"), "bad number"},
      {entry("F32", "1", "[0,4]"), "no list 'shape'"},
      {entry("F32", "[1]", "[0]"), "out of the file"},
      {entry("F32", "[4611686018427387904]", "[0,4]"), "overflows"},
      {entry("F32", "[4294967296,4294967296]", "[0,4]"), "overflows"},
  };
  for (const auto& [header, expected] : cases) {
    const std::string message = problem(file_bytes(header, 16));
    EXPECT_NE(message.find(expected), std::string::npos) << header << "\n" << message;
  }
}

TEST_F(Safetensors, RefusesOverlaps) {
  const std::string header = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                             R"("b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})";
  EXPECT_NE(problem(file_bytes(header, 8)).find("overlap"), std::string::npos);
}

TEST_F(Safetensors, ShardsStayInTheirDirectory) {
  directory_.write("one.safetensors", file_bytes(entry("U8", "[4]", "[0,4]"), 4));
  const auto with_index = [&](const std::string& file) {
    directory_.write("model.safetensors.index.json", "{\"weight_map\":{\"a\":\"" + file + "\"}}");
    return read_safetensors_directory(directory_.path());
  };
  EXPECT_EQ(with_index("one.safetensors").size(), 1u);
  for (const char* file : {"../one.safetensors", "/etc/passwd", "", ".."}) {
    const std::string message = error_of<FormatError>([&] { with_index(file); });
    EXPECT_NE(message.find("same directory"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace wf::engine
