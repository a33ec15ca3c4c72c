#include <gtest/gtest.h>

#include "engine_files.h"
#include "error.h"
#include "json.h"

namespace wf::engine {
namespace {

Json parse(const std::string& text) { return Json::parse(text, "test.json"); }

TEST(Json, ReadsEveryKindOfValue) {
  const Json json =
      parse(R"( {"a": [1, -2.5, 1e3, true, false, null], "b": {"c": "\u00e9\ud83d\ude80\n"}} )");
  const Json::Array& items = json.find("a")->array();
  EXPECT_EQ(items[0].integer(), 1);
  EXPECT_EQ(items[1].number(), -2.5);
  EXPECT_FALSE(items[2].is_integer());
  EXPECT_EQ(items[2].number(), 1000.0);
  EXPECT_TRUE(items[3].boolean());
  EXPECT_FALSE(items[4].boolean());
  EXPECT_TRUE(items[5].is_null());
  EXPECT_EQ(json.find("b")->find("c")->string(), "\xc3\xa9\xf0\x9f\x9a\x80\n");
  EXPECT_EQ(json.find("missing"), nullptr);
  EXPECT_EQ(items[0].find("a"), nullptr);
}

class MalformedJson : public testing::TestWithParam<const char*> {};

TEST_P(MalformedJson, IsAnErrorWithFileAndOffset) {
  const std::string message = error_of<FormatError>([] { parse(GetParam()); });
  EXPECT_NE(message.find("test.json: JSON at byte "), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(Texts, MalformedJson,
                         testing::Values("", " ", "{", "[1,", "[1,]", "{\"a\":1,}", "{a:1}", "1 2",
                                         "tru", "nan", "Infinity", "-", "1e999", "'a'", "\"a",
                                         "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\\udc00\"",
                                         "\"\\ud800\\u0041\"", "\"\x01\"", "\"\xff\"",
                                         "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "{\"a\":1,\"a\":2}"));

TEST(Json, DepthIsLimited) {
  EXPECT_NO_THROW(parse(std::string(60, '[') + std::string(60, ']')));
  const std::string message = error_of<FormatError>([] { parse(std::string(1'000'000, '[')); });
  EXPECT_NE(message.find("nested deeper"), std::string::npos);
}

}  // namespace
}  // namespace wf::engine
