#include "data/files/json_text.h"

#include <gmock/gmock.h>

#include <chrono>

#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using namespace std::string_literals;
using nlohmann::json;
using testing::error_of;
using ::testing::HasSubstr;

std::string error(const std::string& text) {
  return error_of([&] { parse_json<json>(text, "here"); });
}

TEST(JsonText, WhatTheLibraryWouldTakeIsRefused) {
  EXPECT_EQ(parse_json<json>(R"({"a": [{"a": 1}, {"a": 2}]})", "here")["a"].size(), 2U);
  EXPECT_THAT(error(R"({"a": 1, "b": {"c": 1, "c": 2}})"), HasSubstr("here: names \"c\" twice"));
  EXPECT_THAT(error(std::string(65, '[') + std::string(65, ']')), HasSubstr("here: is nested more than 64 deep"));
  EXPECT_EQ(error(std::string(64, '[') + std::string(64, ']')), "");
  EXPECT_THAT(error("{}\0 and more"s), HasSubstr("here: has a zero byte at 2, expected JSON"));
  EXPECT_THAT(error("{\"a\": \0}"s), HasSubstr("here: "));
  EXPECT_EQ(parse_json<json>(R"(["\u0000"])", "here")[0], "\0"s);
  EXPECT_THAT(error("\x1f\x8b\x08\0\0\0"s), HasSubstr("here: is a gzip file, expected JSON"));
}

TEST(JsonText, ManyObjectsTakeNoQuadraticTime) {
  std::string text = "[{}";
  for (int i = 0; i < 500'000; ++i) text += ",{}";
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(parse_json<json>(text + "]", "here").size(), 500'001U);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));  // quadratic: minutes
}

}  // namespace
}  // namespace limbeck::data
