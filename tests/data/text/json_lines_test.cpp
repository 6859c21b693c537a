#include "data/text/json_lines.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "data/text/text_source.h"
#include "tests/support/packed_files.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;
using Texts = std::vector<std::string>;

std::string text_of(const std::string& line, const std::string& field = "text") {
  return JsonField(field).text_of(line, "f.jsonl", 7);
}

TEST(JsonFieldTest, FindsTheStringWhereverItIs) {
  EXPECT_EQ(text_of(R"({"text": "a"})"), "a");
  EXPECT_EQ(text_of(R"({"id": 1, "meta": {"text": "no", "x": [{"text": "no"}]}, "text": "yes", "z": null})"), "yes");
  EXPECT_EQ(text_of("{\"text\":\"\"}\r"), "");
  EXPECT_EQ(text_of(R"({"text": "\u00e9\n\t\"\\\ud83d\ude00"})"), "é\n\t\"\\😀");
  EXPECT_EQ(text_of(R"({"a": {"b": {"c": "deep", "b": "no"}, "c": "no"}, "c": "no"})", "a.b.c"), "deep");
  EXPECT_EQ(text_of(R"({"b": "no", "a": {"x": {"b": "no"}, "b": "yes"}})", "a.b"), "yes");
  EXPECT_EQ(text_of(R"({"a": [{"b": "no"}], "a": {"b": "last"}})", "a.b"), "last");
  EXPECT_EQ(text_of(R"({"text": "first", "text": "last"})"), "last");
  EXPECT_EQ(text_of(std::string(100000, ' ') + R"({"text": "a"})"), "a");
}

TEST(JsonFieldTest, RefusesOtherLinesByPlace) {
  const auto message = [](const std::string& line, const std::string& field = "text") {
    const std::string text = error_of([&] { text_of(line, field); });
    EXPECT_TRUE(text.starts_with("f.jsonl:7: ")) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    return text;
  };
  EXPECT_THAT(message("plain text"), HasSubstr("is not JSON at byte 1, expected one object a line"));
  EXPECT_THAT(message(R"({"text": "a)"), HasSubstr("is not JSON at byte"));
  EXPECT_THAT(message(R"({"text": "a"} x)"), HasSubstr("is not JSON at byte 15"));
  EXPECT_THAT(message("{\"text\": \"\xff\"}"), HasSubstr("is not JSON at byte 11"));
  EXPECT_THAT(message(R"({"text": "\ud800"})"), HasSubstr("is not JSON at byte"));
  EXPECT_THAT(message("[\"text\"]"), HasSubstr("is a list, expected one object a line"));
  EXPECT_THAT(message("\"text\""), HasSubstr("is a string, expected one object a line"));
  EXPECT_THAT(message("3"), HasSubstr("is a number, expected"));
  EXPECT_THAT(message(R"({"text": null})"), HasSubstr("the field \"text\" is null, expected a string"));
  EXPECT_THAT(message(R"({"text": ["a"]})"), HasSubstr("the field \"text\" is a list"));
  EXPECT_THAT(message(R"({"text": {"text": "a"}})"), HasSubstr("the field \"text\" is an object"));
  EXPECT_THAT(message(R"({"text": "a", "text": 1})"), HasSubstr("is a number"));
  EXPECT_THAT(message(R"({"url": "u", "content": "a"})"),
              HasSubstr("has no field \"text\", expected a string there (the line has: url, content)"));
  EXPECT_THAT(message(R"({"a": {"c": "x"}})", "a.b"), HasSubstr("has no field \"a.b\""));
  EXPECT_THAT(message(R"({"a": {"b": "x"}, "a": {}})", "a.b"), HasSubstr("has no field \"a.b\""));
  EXPECT_THAT(message(R"({"a": "x"})", "a.b"), HasSubstr("the field \"a.b\" is a string"));
  EXPECT_THAT(message("{\"a\\nb\": 1}"), HasSubstr("the line has: a b"));
  EXPECT_THAT(message(std::string(1 << 20, '[')), HasSubstr("is not JSON"));
  for (const char* name : {"", ".", "a.", ".a", "a..b"})
    EXPECT_THAT(error_of([&] { JsonField field(name); }), HasSubstr("expected a name, or names joined by single dots"));
}

/// Texts of {"text": ...} lines; checks that blocks follow one another.
Texts texts_of(const std::string& path, const LinePlace& begin = {}, std::vector<LineBlock>* blocks = nullptr) {
  LineReader reader(path, begin, 1 << 24);
  Texts texts;
  LinePlace place = begin;
  while (true) {
    LineBlock block = reader.next();
    EXPECT_EQ(block.begin.offset, place.offset);
    EXPECT_EQ(block.begin.line, place.line);
    place = block.end;
    for_each_text(block, JsonField("text"), path,
                  [&](std::string&& text, std::int64_t) { texts.push_back(std::move(text)); });
    if (blocks != nullptr) blocks->push_back(block);
    if (block.is_last) return texts;
  }
}

TEST(LineReaderTest, ReadsEveryPackingAndGoesOnFromAnyBlock) {
  TemporaryFolder folder;
  std::string all;
  Texts expected;
  for (int i = 0; i < 3000; ++i) {  // some 6 MB, one line of 3 MB
    const std::string text(i == 1000 ? 3 << 20 : static_cast<std::size_t>(i * 7919 % 2003),
                           static_cast<char>('a' + i % 26));
    all += R"({"text": ")" + text + "\"}\n";
    if (i % 10 == 0) all += " \r\n";
    expected.push_back(text);
  }
  all += R"({"text": "the last, without a line end"})";
  expected.push_back("the last, without a line end");
  write_file(folder / "plain", all);
  testing::write_gzip(folder / "gzip", all);
  testing::write_zstd(folder / "zstd", all);
  write_file(folder / "frames", testing::zstd_frame(all.substr(0, 12345)) + testing::zstd_frame("") +
                                    testing::zstd_frame(all.substr(12345)));
  for (const char* name : {"plain", "gzip", "zstd", "frames"}) {
    std::vector<LineBlock> blocks;
    EXPECT_EQ(texts_of(folder / name, {}, &blocks), expected) << name;
    ASSERT_GT(blocks.size(), 3U);
    EXPECT_EQ(blocks.back().end.offset, static_cast<std::int64_t>(all.size()));
    EXPECT_EQ(blocks.back().packed_end, static_cast<std::int64_t>(read_file(folder / name).size()));
    const Texts rest = texts_of(folder / name, blocks[1].end);
    ASSERT_LT(rest.size(), expected.size());
    EXPECT_TRUE(std::equal(rest.rbegin(), rest.rend(), expected.rbegin())) << name;
  }
  write_file(folder / "empty", "");
  EXPECT_EQ(texts_of(folder / "empty"), Texts{});
  write_file(folder / "blank", "\n\n");
  EXPECT_EQ(texts_of(folder / "blank"), Texts{});
}

TEST(LineReaderTest, NamesFileAndLine) {
  TemporaryFolder folder;
  const std::string path = folder / "a.jsonl";
  write_file(path, "{\"text\": \"a\"}\n\n{\"txt\": 1}\n");
  EXPECT_THAT(error_of([&] { texts_of(path); }), HasSubstr(path + ":3: has no field"));
  std::string second = "{\"text\": \"a\"}\n";
  for (int i = 0; i < 20; ++i) second += second.size() < 1 << 22 ? second : "";
  const auto lines = std::count(second.begin(), second.end(), '\n');
  write_file(path, second + "oops\n");  // in a later block
  EXPECT_THAT(error_of([&] { texts_of(path); }), HasSubstr(path + ":" + std::to_string(lines + 1) + ": is not JSON"));
  write_file(path, second + std::string(9 << 20, 'x'));
  EXPECT_THAT(error_of([&] {
                LineReader reader(path, {}, 1 << 22);
                while (!reader.next().is_last) {
                }
              }),
              HasSubstr(path + ":" + std::to_string(lines + 1) + ": the line has more than 4194304 bytes"));
}

TEST(UnpackedFileTest, RefusesBrokenPackingByName) {
  TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 200000; ++i) text += std::to_string(i * 7919 % 10007);
  const auto refused = [&](const std::string& name, const std::string& bytes) {
    write_file(folder / name, bytes);
    const std::string message = error_of([&] { read_document(folder / name); });
    EXPECT_THAT(message, HasSubstr((folder / name).string() + ": cannot be read after "));
  };
  const std::string zstd = testing::zstd_frame(text);
  refused("cut", zstd.substr(0, zstd.size() / 2));
  refused("cut", zstd.substr(0, zstd.size() - 1));
  refused("cut", zstd.substr(0, 5));
  refused("behind", zstd + "rubbish");
  std::string damaged = zstd;
  damaged[zstd.size() / 2] ^= 0x40;
  refused("damaged", damaged);
  // A window of 2 GiB: the frame's head alone asks for it.
  refused("window", std::string("\x28\xb5\x2f\xfd\x00\xa8\x00\x00\x00", 9));
  EXPECT_THAT(error_of([&] { UnpackedFile file("/none/at/all"); }), HasSubstr("/none/at/all: cannot be opened"));
  EXPECT_NE(error_of([&] { read_document(folder.path()); }), "");
}

TEST(TextFormatTest, IsToldByTheName) {
  for (const char* name : {"a.jsonl", "a.jsonl.gz", "b/a.ndjson.zst", "a.jsonlines"})
    EXPECT_TRUE(is_json_lines(name, TextFormat::Auto)) << name;
  for (const char* name : {"a.txt", "a", "a.gz", "jsonl", "a.jsonl.txt", "a.md.zst"})
    EXPECT_FALSE(is_json_lines(name, TextFormat::Auto)) << name;
  EXPECT_TRUE(is_json_lines("a.json.gz", TextFormat::JsonLines));
  EXPECT_FALSE(is_json_lines("a.jsonl", TextFormat::Plain));
  EXPECT_THROW(is_json_lines("a.json.gz", TextFormat::Auto), core::UsageError);
}

}  // namespace
}  // namespace limbeck::data
