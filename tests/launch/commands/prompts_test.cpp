#include "launch/commands/prompts.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using ::testing::ElementsAre;
using ::testing::FieldsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TemporaryFolder;
using testing::write_file;

TEST(Prompts, AreLinesOrFieldsOfLines) {
  const TemporaryFolder folder;
  const auto read = [&](const char* name, const std::string& contents, std::optional<std::string> field = {}) {
    write_file(folder / name, contents);
    GenerateOptions options;
    options.prompts = folder / name;
    options.field = std::move(field);
    return read_prompts(options);
  };
  const auto texts = [&](const char* name, const std::string& contents, std::optional<std::string> field = {}) {
    std::vector<std::string> result;
    for (const Prompt& prompt : read(name, contents, std::move(field))) result.push_back(prompt.text);
    return result;
  };
  EXPECT_THAT(texts("p.txt", "one\n\n  two \r\n\t\nthree"), ElementsAre("one", "  two ", "three"));
  EXPECT_THAT(texts("p.jsonl", R"({"prompt": "a\nb", "id": 1})"
                               "\n\n"
                               R"({"id": 2, "prompt": "c"})"),
              ElementsAre("a\nb", "c"));
  EXPECT_THAT(texts("p.ndjson", R"({"chat": {"q": "x"}})", "chat.q"), ElementsAre("x"));
  EXPECT_THAT(texts("p.txt", R"({"q": "of any name"})", "q"), ElementsAre("of any name"));
  const auto error = [&](const char* name, const std::string& contents) {
    return testing::error_of([&] { read(name, contents); });
  };
  EXPECT_THAT(error("p.jsonl", "{\"prompt\": \"a\"}\n{\"text\": \"b\"}"),
              HasSubstr("p.jsonl:2: has no field \"prompt\""));
  EXPECT_THAT(error("p.txt", "\n \n"), HasSubstr("p.txt: holds no prompts, expected one a line"));
  EXPECT_THAT(error("p.gz", "\x1f\x8b nothing"), HasSubstr("p.gz: "));
  GenerateOptions nowhere;
  nowhere.prompts = folder / "nowhere.txt";
  EXPECT_THAT(testing::error_of([&] { read_prompts(nowhere); }), HasSubstr("nowhere.txt: cannot be opened"));
  GenerateOptions one;
  one.prompt = "as it is\n";
  EXPECT_THAT(read_prompts(one), ElementsAre(FieldsAre("as it is\n", "--prompt", IsEmpty())));
  const std::string file = (folder / "p").string();
  EXPECT_THAT(read("p.txt", "\none\r\n\ntwo"),
              ElementsAre(FieldsAre("one", file + ".txt:2", IsEmpty()), FieldsAre("two", file + ".txt:4", IsEmpty())));
  EXPECT_THAT(read("p.jsonl", "{\"prompt\": \"a\"}\n\n{\"prompt\": \"\"}"),
              ElementsAre(FieldsAre("a", file + ".jsonl:1", IsEmpty()), FieldsAre("", file + ".jsonl:3", IsEmpty())));
}

TEST(Prompts, AreConversationsWithChat) {
  const TemporaryFolder folder;
  GenerateOptions options;
  options.chat = true;
  const auto read = [&](const char* name, const std::string& contents) {
    write_file(folder / name, contents);
    options.prompts = folder / name;
    std::vector<std::string> said;
    for (const Prompt& prompt : read_prompts(options)) {
      std::string& all = said.emplace_back(prompt.text);
      for (const auto& [role, content] : prompt.messages)
        all += std::string(data::chat_roles[static_cast<std::size_t>(role)]) + ": " + content + "; ";
    }
    return said;
  };
  EXPECT_THAT(read("p.txt", "one\ntwo <|im_end|>\xff"), ElementsAre("user: one; ", "user: two <|im_end|>\ufffd; "));
  const std::string conversation =
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]})";
  EXPECT_THAT(read("p.jsonl", conversation), ElementsAre("user: a; assistant: b; user: c; "));
  options.system = "Be brief.";
  EXPECT_THAT(read("p.jsonl", conversation), ElementsAre("system: Be brief.; user: a; assistant: b; user: c; "));
  EXPECT_THAT(read("p.txt", "one"), ElementsAre("system: Be brief.; user: one; "));
  EXPECT_THAT(testing::error_of([&] {
                read("p.jsonl",
                     R"({"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]})");
              }),
              HasSubstr("p.jsonl:1: has a system message, expected none beside --system"));
  options.field = "chat.turns";
  options.system = std::nullopt;
  EXPECT_THAT(read("p.jsonl", R"({"chat": {"turns": [{"role": "user", "content": "a"}]}})"), ElementsAre("user: a; "));
  EXPECT_THAT(testing::error_of([&] { read("p.jsonl", conversation); }), HasSubstr("p.jsonl:1: chat is absent"));
}

TEST(InOrder, WritesTheFirstAsItGrowsAndThoseBehindItWhole) {
  std::vector<std::string> written;
  InOrder out(3, [&](const std::string& text) { written.push_back(text); });
  out.add(1, "b");
  out.add(0, "a");
  out.add(2, "c");
  out.end(2);
  out.add(1, "B");
  EXPECT_THAT(written, ElementsAre("a"));
  out.end(0);
  EXPECT_THAT(written, ElementsAre("a", "bB"));
  out.add(1, "!");
  out.end(1);
  EXPECT_THAT(written, ElementsAre("a", "bB", "!", "c"));
}

}  // namespace
}  // namespace limbeck::launch
