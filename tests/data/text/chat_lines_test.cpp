#include "data/text/chat_lines.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "data/text/documents.h"
#include "data/text/loader.h"
#include "data/text/token_hash.h"
#include "data/text/token_meta.h"
#include "data/text/tokenize.h"
#include "data/tokenizers/tokenizer_json.h"
#include "tests/support/golden_lines.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using nlohmann::json;
using testing::error_of;
using ::testing::HasSubstr;
using testing::read_file;
using ::testing::StartsWith;
using testing::write_file;

/// The chat golden's template of that name with its tokenizer; its expected tokens of each conversation.
struct Family {
  std::shared_ptr<const Tokenizer> tokenizer;
  json conversations;
  json expected;

  explicit Family(const std::string& name) {
    const auto lines = testing::golden_lines("chat/chat.jsonl.gz");
    conversations = lines[0]["conversations"];
    for (const json& line : lines)
      if (line.value("name", "") == name && !tokenizer) {
        const auto of = std::find_if(lines.begin(), lines.end(), [&](const json& other) {
          return other.contains("tokenizer_json") && other["tokenizer"] == line["tokenizer"];
        });
        const json config = {{"eos_token", line["eos"]}, {"chat_template", line["template"]}};
        tokenizer = tokenizer_from_hugging_face({(*of)["tokenizer_json"], config.dump()}, name);
        expected = line["whole"];
      }
  }
  json messages(std::size_t conversation) const {
    json list = json::array();
    for (const json& message : conversations[conversation])
      list.push_back({{"role", message[0]}, {"content", message[1]}});
    return list;
  }
};

const Family& qwen() {
  static const Family family("Qwen2.5");
  return family;
}

/// Expected: -1 where no target is, from ids and ranges of targets.
std::vector<std::int32_t> targets_of(const json& expected) {
  const std::vector<std::int32_t> ids = expected["ids"];
  std::vector<std::int32_t> targets(ids.size(), -1);
  const std::vector<std::size_t> ranges = expected["targets"];
  for (std::size_t r = 0; r < ranges.size(); r += 2)
    for (std::size_t i = ranges[r]; i < ranges[r + 1]; ++i) targets[i] = ids[i];
  return targets;
}

class ChatLines : public ::testing::Test {
 protected:
  testing::TemporaryFolder folder_;
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  /// A file of the conversations, each in a line, between blank ones.
  std::string write_chats(const std::vector<std::size_t>& which) const {
    std::string text = "\n";
    for (const std::size_t c : which) text += json{{"id", c}, {"messages", qwen().messages(c)}}.dump() + "\n \n";
    write_file(path("chats.jsonl"), text);
    return path("chats.jsonl");
  }
};

TEST_F(ChatLines, ATokenFileHasTheTokensAndTheMask) {
  const std::vector<std::size_t> which = {0, 1, 4, 5, 7};
  const std::string file = write_chats(which);
  const TokenizeCounts counts = tokenize_files({file}, *qwen().tokenizer, path("tokens"),
                                               {.threads = 2, .format = TextFormat::Chat, .is_kept = true});
  EXPECT_EQ(counts.documents, 5);
  EXPECT_GT(counts.encode.special_names, 0);
  const TokenFile tokens(path("tokens"));
  ASSERT_TRUE(tokens.has_mask());
  for (std::size_t i = 0; i < which.size(); ++i) {
    const json& expected = qwen().expected[which[i]];
    const auto document = static_cast<std::int64_t>(i);
    const std::vector<std::int32_t> ids = tokens.read(document);
    EXPECT_EQ(ids, expected["ids"].get<std::vector<std::int32_t>>()) << i;
    std::vector<std::int32_t> targets = ids;
    const std::vector<std::uint8_t> mask = tokens.read_mask(document);
    for (std::size_t t = 0; t < ids.size(); ++t)
      if (mask[t] == 0) targets[t] = -1;
    EXPECT_EQ(targets, targets_of(expected)) << i;
  }
  const auto meta = read_token_meta(tokens);
  ASSERT_TRUE(meta);
  EXPECT_EQ(meta->chat_template, "Qwen2.5");
  EXPECT_FALSE(find_token_damage(path("tokens")));

  // Documents are the same without a token file.
  const std::vector<Document> documents =
      read_documents({file}, *qwen().tokenizer, {.threads = 2, .format = TextFormat::Chat});
  const std::vector<Document> stored = documents_of(tokens, qwen().tokenizer.get());
  ASSERT_EQ(documents.size(), stored.size());
  for (std::size_t i = 0; i < documents.size(); ++i) {
    EXPECT_EQ(documents[i].ids, stored[i].ids);
    EXPECT_EQ(documents[i].is_target, stored[i].is_target);
    EXPECT_EQ(documents[i].bytes, std::nullopt);
  }
  EXPECT_EQ(documents[1].name, file + ":4");

  // Other targets, other text.
  const std::uint64_t before = tokens.fingerprint();
  std::string mask = read_file(path("tokens.mask"));
  mask[3] = static_cast<char>(1 - mask[3]);
  write_file(path("tokens.mask"), mask);
  EXPECT_NE(TokenFile(path("tokens")).fingerprint(), before);
  EXPECT_THAT(find_token_damage(path("tokens")).value_or(""), HasSubstr("tokens.mask"));
  mask[3] = 2;
  write_file(path("tokens.mask"), mask);
  EXPECT_THAT(error_of([&] { TokenFile(path("tokens")).read_mask(0); }),
              HasSubstr("tokens.mask: document 0 has a byte that is neither 0 nor 1"));
  write_file(path("tokens.mask"), mask + "x");
  EXPECT_THAT(error_of([&] { TokenFile again(path("tokens")); }), HasSubstr("expected one for each of the"));
  std::filesystem::remove(path("tokens.mask"));
  EXPECT_THAT(error_of([&] { read_token_meta(TokenFile(path("tokens"))); }), HasSubstr("tokens.mask: is not there"));

  // Other text under the name has no mask.
  write_file(path("plain.txt"), "a text");
  tokenize_files({path("plain.txt")}, *qwen().tokenizer, path("masked"), {.format = TextFormat::Plain});
  write_file(path("masked.mask"), "xxxxxxxxx");
  tokenize_files({path("plain.txt")}, *qwen().tokenizer, path("masked"), {.format = TextFormat::Plain});
  EXPECT_FALSE(TokenFile(path("masked")).has_mask());
}

TEST_F(ChatLines, WhatIsLearntAreRepliesAlone) {
  std::vector<std::size_t> which;
  for (int i = 0; i < 12; ++i) which.insert(which.end(), {0, 1, 5, 7, 16});
  tokenize_files({write_chats(which)}, *qwen().tokenizer, path("tokens"), {.format = TextFormat::Chat});
  const auto file = std::make_shared<TokenFile>(path("tokens"));
  Loader loader(file, {.sequence_length = 37, .vocabulary = qwen().tokenizer->vocabulary_size(), .seed = 3});
  // The text of an epoch by its documents: what follows a token in its document, where the mask has it.
  std::map<std::vector<std::int32_t>, std::vector<std::int32_t>> targets_by_ids;
  for (const std::size_t c : which) targets_by_ids[qwen().expected[c]["ids"]] = targets_of(qwen().expected[c]);
  std::int64_t counted = 0;
  for (std::int64_t sample = 0; sample < loader.sequences_per_epoch(); ++sample) {
    const TokenBatch batch = loader.fetch(sample, 1);
    EXPECT_EQ(loader.num_targets(sample, 1), batch.num_targets()) << sample;
    counted += batch.num_targets();
    // Each part of a document is somewhere in one of those, with its targets one token earlier.
    for (std::size_t begin = 0, end = 0; begin < batch.tokens.size(); begin = end) {
      while (end < batch.tokens.size() && batch.documents[end] == batch.documents[begin]) ++end;
      const std::vector<std::int32_t> part(batch.tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                           batch.tokens.begin() + static_cast<std::ptrdiff_t>(end));
      const std::vector<std::int32_t> targets(batch.targets.begin() + static_cast<std::ptrdiff_t>(begin),
                                              batch.targets.begin() + static_cast<std::ptrdiff_t>(end));
      bool is_found = false;
      for (const auto& [ids, expected] : targets_by_ids) {
        std::vector<std::int32_t> shifted(expected.begin() + 1, expected.end());
        shifted.push_back(-1);
        for (std::size_t at = 0; at + part.size() <= ids.size() && !is_found; ++at)
          is_found = std::equal(part.begin(), part.end(), ids.begin() + static_cast<std::ptrdiff_t>(at)) &&
                     std::equal(targets.begin(), targets.end(), shifted.begin() + static_cast<std::ptrdiff_t>(at));
      }
      EXPECT_TRUE(is_found) << "sample " << sample << ", from " << begin;
    }
  }
  EXPECT_EQ(loader.num_targets(0, loader.sequences_per_epoch()), counted);
  EXPECT_LT(counted, loader.tokens_per_epoch() * 9 / 10);
  EXPECT_GT(counted, loader.tokens_per_epoch() / 10);
  const std::vector<std::int64_t> unigram = loader.unigram_counts();
  EXPECT_EQ(unigram[static_cast<std::size_t>(*qwen().tokenizer->id_of("<|im_start|>"))], 0);
  EXPECT_GT(unigram[static_cast<std::size_t>(*qwen().tokenizer->id_of("<|im_end|>"))], 0);
}

TEST_F(ChatLines, AnInterruptedTokenizingGoesOnWithItsMask) {
  const std::string file = write_chats(std::vector<std::size_t>(200, 1));
  write_file(path("second.jsonl"), json{{"messages", qwen().messages(0)}}.dump() + "\n{\"messages\": 5}\n");
  const TokenizeOptions options{.format = TextFormat::Chat, .save_every = std::chrono::milliseconds(0)};
  EXPECT_THAT(error_of([&] {
                tokenize_files({file, path("second.jsonl")}, *qwen().tokenizer, path("tokens"), options);
              }),
              StartsWith(path("second.jsonl") + ":2: messages is 5"));
  ASSERT_TRUE(std::filesystem::exists(path("tokens.mask.partial")));
  write_file(path("second.jsonl"), json{{"messages", qwen().messages(0)}}.dump() + "\n");
  tokenize_files({file, path("second.jsonl")}, *qwen().tokenizer, path("tokens"), options);
  tokenize_files({file, path("second.jsonl")}, *qwen().tokenizer, path("at_once"), options);
  for (const char* extension : {".bin", ".idx", ".mask"})
    EXPECT_EQ(read_file(path(std::string("tokens") + extension)), read_file(path(std::string("at_once") + extension)));
  EXPECT_FALSE(std::filesystem::exists(path("tokens.mask.partial")));
}

TEST_F(ChatLines, WhatIsNoConversationIsRefusedWithFileAndLine) {
  const auto error = [&](const std::string& line, const std::string& field = "messages") {
    return error_of([&] { conversation_of(line, JsonField(field), "f.jsonl", 7); });
  };
  const auto with_message = [](const std::string& message) { return R"({"messages": [)" + message + "]}"; };
  EXPECT_EQ(error(with_message(R"({"role": "user", "content": "a"})")), "");
  EXPECT_EQ(error(R"({"a": {"b": [{"role": "user", "content": "a"}]}})", "a.b"), "");
  EXPECT_EQ(error(with_message(R"({"role": "user", "content": 5})")),
            "f.jsonl:7: messages[0].content is 5, expected a text");
  EXPECT_EQ(error(with_message(R"({"role": "user", "content": [{"type": "text", "text": "a"}]})")),
            R"(f.jsonl:7: messages[0].content is [{"text":"a","type":"text"}], expected a text)");
  EXPECT_EQ(error(with_message(R"({"role": "assistant", "content": null})")),
            "f.jsonl:7: messages[0].content is null, expected a text");
  EXPECT_EQ(error(with_message(R"({"role": "user"})")), "f.jsonl:7: messages[0].content is absent");
  EXPECT_EQ(error(with_message(R"({"content": "a"})")), "f.jsonl:7: messages[0].role is absent");
  EXPECT_EQ(error(with_message(R"({"role": "tool", "content": "a"})")),
            R"(f.jsonl:7: messages[0].role is "tool", expected system, user or assistant)");
  EXPECT_THAT(error(with_message(R"({"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]})")),
              StartsWith("f.jsonl:7: messages[0].tool_calls is "));
  EXPECT_THAT(error(with_message(R"({"role": "assistant", "content": "a", "reasoning_content": "b"})")),
              StartsWith("f.jsonl:7: messages[0].reasoning_content is "));
  EXPECT_EQ(error(with_message(R"({"role": "assistant", "content": "a", "tool_calls": []})")), "");
  EXPECT_EQ(error(with_message(R"("a")")), "f.jsonl:7: messages[0] is \"a\", expected an object");
  EXPECT_EQ(error(R"({"messages": []})"), "f.jsonl:7: messages is [], expected at least one message");
  EXPECT_EQ(error(R"({"messages": "a"})"), "f.jsonl:7: messages is \"a\", expected an array");
  EXPECT_EQ(error(R"({"conversations": []})"), "f.jsonl:7: messages is absent");
  EXPECT_EQ(error("[]"), "f.jsonl:7 is [], expected an object");
  EXPECT_THAT(error(R"({"messages": [)"), StartsWith("f.jsonl:7: "));
  EXPECT_THAT(error(with_message("{\"role\": \"user\", \"content\": \"\xff\"}")), StartsWith("f.jsonl:7: "));

  const auto tokenized = [&](const std::string& line) {
    write_file(path("bad.jsonl"), "\n" + line + "\n");
    return error_of(
        [&] { tokenize_files({path("bad.jsonl")}, *qwen().tokenizer, path("bad"), {.format = TextFormat::Chat}); });
  };
  EXPECT_EQ(tokenized(with_message(R"({"role": "user", "content": "a"})")),
            path("bad.jsonl") + ":2: messages has no reply, expected at least one of role assistant");
  EXPECT_THAT(error_of([&] {
                tokenize_files({write_chats({0})}, *qwen().tokenizer, path("bad"),
                               {.format = TextFormat::Chat, .parse_special = true});
              }),
              StartsWith("parse_special is given for conversations"));
  EXPECT_THAT(error_of([&] {
                tokenize_files({write_chats({0})}, *byte_tokenizer(), path("bad"), {.format = TextFormat::Chat});
              }),
              StartsWith("the tokenizer has no chat template, expected one of Qwen3, Qwen2.5,"));
}

}  // namespace
}  // namespace limbeck::data
