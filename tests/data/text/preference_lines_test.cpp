#include "data/text/preference_lines.h"

#include <gmock/gmock.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "data/text/documents.h"
#include "data/text/loader.h"
#include "data/text/mixture.h"
#include "data/text/token_meta.h"
#include "data/text/tokenize.h"
#include "data/tokenizers/tokenizer_json.h"
#include "tests/support/golden_lines.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::write_file;

std::vector<std::string> said(const std::vector<ChatMessage>& messages) {
  std::vector<std::string> all;
  for (const ChatMessage& m : messages)
    all.push_back(std::string(chat_roles[static_cast<std::size_t>(m.role)]) + ": " + m.content);
  return all;
}

TEST(PreferenceLines, AreThoseOfTrl) {
  const PreferencePair text =
      pair_of(R"({"prompt": "The sky is", "chosen": " blue.", "rejected": "", "score": 3})", "f", 1);
  EXPECT_FALSE(text.is_chat());
  EXPECT_EQ(text.prompt, "The sky is");
  EXPECT_EQ(text.chosen, " blue.");
  EXPECT_EQ(text.rejected, "");

  const auto expect_chat = [](const char* line, std::size_t num_given) {
    const PreferencePair pair = pair_of(line, "f", 1);
    EXPECT_TRUE(pair.is_chat());
    EXPECT_EQ(pair.num_given, num_given) << line;
    EXPECT_THAT(said(pair.chosen_messages), ElementsAre("user: Hi", "assistant: Hello")) << line;
    EXPECT_THAT(said(pair.rejected_messages), ElementsAre("user: Hi", "assistant: Go", "user: No", "assistant: So"))
        << line;
  };
  expect_chat(R"({"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "Hello"}],
                  "rejected": [{"role": "assistant", "content": "Go"}, {"role": "user", "content": "No"},
                               {"role": "assistant", "content": "So"}]})",
              1);
  const std::string implicit =
      R"("chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
         "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go"},
                      {"role": "user", "content": "No"}, {"role": "assistant", "content": "So"}]})";
  expect_chat(("{" + implicit).c_str(), 1);
  expect_chat((R"({"prompt": "Hi", )" + implicit).c_str(), 1);
}

TEST(PreferenceLines, OthersAreRefusedByLine) {
  const auto expect_refused = [](const std::string& line, const std::string& expected) {
    EXPECT_THAT(error_of([&] { pair_of(line, "p.jsonl", 7); }), HasSubstr("p.jsonl:7" + expected)) << line;
  };
  const std::string user = R"({"role": "user", "content": "Hi"})", reply = R"({"role": "assistant", "content": "A"})",
                    other = R"({"role": "assistant", "content": "B"})";
  expect_refused("[]", " is [], expected an object");
  expect_refused("{", ":");
  expect_refused(R"({"prompt": "a", "rejected": "b"})", ": chosen is absent");
  expect_refused(R"({"prompt": "a", "chosen": "b"})", ": rejected is absent");
  expect_refused(R"({"chosen": "a b", "rejected": "a c"})", ": prompt is absent");
  expect_refused(R"({"prompt": "", "chosen": "a", "rejected": "b"})", ": prompt is \"\", expected a text that is not");
  expect_refused(R"({"prompt": "a", "chosen": 1, "rejected": "b"})", ": chosen is 1, expected a text");
  expect_refused(R"({"prompt": "a", "chosen": "c", "rejected": [)" + reply + "]}", ": rejected is [");
  expect_refused(R"({"prompt": "Hi", "chosen": [)" + reply + R"(], "rejected": "b"})",
                 ": rejected is \"b\", expected an");
  expect_refused(R"({"prompt": [)" + user + R"(], "chosen": [)" + user + R"(], "rejected": [)" + reply + "]}",
                 ": chosen is [{");
  expect_refused(R"({"prompt": [)" + user + R"(], "chosen": [)" + reply + R"(], "rejected": []})",
                 ": rejected is [], expected at least one message");
  expect_refused(R"({"chosen": [)" + user + "," + reply + R"(], "rejected": [)" + user + "]}",
                 ": rejected is [{\"content\":\"Hi\",\"role\":\"user\"}], expected a reply behind");
  expect_refused(R"({"chosen": [)" + reply + R"(], "rejected": [)" + other + "]}",
                 ": rejected is [{\"content\":\"B\",\"role\":\"assistant\"}], expected messages that begin");
  expect_refused(
      R"({"prompt": "Ho", "chosen": [)" + user + "," + reply + R"(], "rejected": [)" + user + "," + other + "]}",
      ": prompt is \"Ho\", expected what the first message");
  expect_refused(
      R"({"prompt": [{"role": "tool", "content": ""}], "chosen": [)" + reply + R"(], "rejected": [)" + other + "]}",
      ": prompt[0].role is \"tool\"");
}

/// Of the chat golden's tokenizer of Qwen2.5, with its template.
class PreferenceTokens : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto lines = testing::golden_lines("chat/chat.jsonl.gz");
    std::string tokenizer_json;
    for (const json& line : lines)
      if (line.value("tokenizer", "") == "qwen" && line.contains("tokenizer_json"))
        tokenizer_json = line["tokenizer_json"].get<std::string>();
    for (const json& line : lines)
      if (line.value("name", "") == "Qwen2.5")
        qwen_ = tokenizer_from_hugging_face(
            {tokenizer_json, json{{"eos_token", line["eos"]}, {"chat_template", line["template"]}}.dump()}, "qwen");
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::vector<Document> documents(const std::string& lines, const Tokenizer& tokenizer) const {
    write_file(path("pairs.jsonl"), lines);
    return read_documents({path("pairs.jsonl")}, tokenizer, {.format = TextFormat::Pairs});
  }
  static std::vector<std::int32_t> targets_of(const Document& document) {
    std::vector<std::int32_t> targets;
    for (std::size_t i = 0; i < document.ids.size(); ++i)
      if (document.is_target[i] != 0) targets.push_back(document.ids[i]);
    return targets;
  }
  testing::TemporaryFolder folder_;
  std::shared_ptr<const Tokenizer> qwen_;
};

TEST_F(PreferenceTokens, OfTextAreTheResponseAndItsEnd) {
  const auto bytes = byte_tokenizer();
  const auto found = documents("\n{\"prompt\": \"ab\", \"chosen\": \"cd\", \"rejected\": \"\"}\n", *bytes);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].name, path("pairs.jsonl") + ":2");
  EXPECT_EQ(found[1].name, path("pairs.jsonl") + ":2");
  EXPECT_THAT(found[0].ids, ElementsAre('a', 'b', 'c', 'd', 256));
  EXPECT_THAT(found[0].is_target, ElementsAre(0, 0, 1, 1, 1));
  EXPECT_THAT(found[1].ids, ElementsAre('a', 'b', 256));
  EXPECT_THAT(found[1].is_target, ElementsAre(0, 0, 1));

  // A word that prompt and response share is cut where the prompt ends: so it will be read when the model answers.
  for (const auto& [prompt, response] :
       {std::pair<std::string, std::string>{"The still", " drips."}, {"The sti", "ll drips."}}) {
    const auto of_qwen = documents(json{{"prompt", prompt}, {"chosen", response}, {"rejected", "x"}}.dump(), *qwen_);
    std::vector<std::int32_t> expected = qwen_->encode(response);
    expected.push_back(qwen_->end_of_text_id());
    EXPECT_EQ(targets_of(of_qwen[0]), expected) << prompt;
    std::vector<std::int32_t> whole = qwen_->encode(prompt);
    whole.insert(whole.end(), expected.begin(), expected.end());
    EXPECT_EQ(of_qwen[0].ids, whole) << prompt;
  }
}

/// Replies in the prompt are given, not learnt.
TEST_F(PreferenceTokens, OfMessagesAreTheRepliesBehindThePrompt) {
  const json prompt = json::parse(R"([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"},
                                      {"role": "user", "content": "What is a still?"}])");
  const json chosen = json::parse(R"([{"role": "assistant", "content": "A tool for distilling."}])");
  const json rejected = json::parse(R"([{"role": "assistant", "content": "No."}])");
  const auto found = documents(json{{"prompt", prompt}, {"chosen", chosen}, {"rejected", rejected}}.dump(), *qwen_);
  ASSERT_EQ(found.size(), 2U);
  const ChatTemplate chat(*qwen_);
  const std::vector<std::int32_t> given = chat.prompt(std::vector<ChatMessage>{
      {ChatRole::User, "Hi"}, {ChatRole::Assistant, "Yes?"}, {ChatRole::User, "What is a still?"}});
  for (const auto& [document, reply] : {std::pair{found[0], "A tool for distilling."}, {found[1], "No."}}) {
    ASSERT_GT(document.ids.size(), given.size());
    EXPECT_TRUE(std::equal(given.begin(), given.end(), document.ids.begin()));
    std::vector<std::int32_t> expected = qwen_->encode(reply);
    expected.push_back(*chat.end_of_reply());
    EXPECT_EQ(targets_of(document), expected);
    for (std::size_t i = 0; i < given.size(); ++i) EXPECT_EQ(document.is_target[i], 0) << i;
  }
  EXPECT_THAT(
      error_of([&] {
        documents(json{{"prompt", prompt}, {"chosen", chosen}, {"rejected", rejected}}.dump(), *byte_tokenizer());
      }),
      HasSubstr("pairs.jsonl:1: the tokenizer has no chat template"));
  EXPECT_THAT(error_of([&] { DocumentEncoder(*qwen_, TextFormat::Pairs, "text", /*parse_special=*/true); }),
              HasSubstr("parse_special is given for pairs"));
  EXPECT_THAT(error_of([&] { DocumentEncoder(*qwen_, TextFormat::Pairs, "body", false); }),
              HasSubstr("field is \"body\" of pairs"));
}

/// Pair i has i % 5 + 1 letters in its prompt, its number in the chosen response, and one letter in the rejected one.
class PairLoader : public PreferenceTokens {
 protected:
  void SetUp() override {
    std::string lines;
    for (int i = 0; i < num_pairs; ++i)
      lines += json{{"prompt", std::string(static_cast<std::size_t>(i % 5 + 1), 'p')},
                    {"chosen", std::to_string(100 + i)},
                    {"rejected", "z"}}
                   .dump() +
               "\n";
    write_file(path("pairs.jsonl"), lines);
    tokenize_files({path("pairs.jsonl")}, *byte_tokenizer(), path("tokens"),
                   {.threads = 2, .format = TextFormat::Pairs});
    file_ = std::make_shared<TokenFile>(path("tokens"));
  }
  Loader loader(std::int64_t length, double held_out = 0.1) const {
    return {file_, {.sequence_length = length, .vocabulary = 257, .seed = 3, .held_out = held_out, .has_pairs = true}};
  }
  /// The number in the chosen response of each sequence, whose columns are checked.
  static std::vector<int> pairs_of(const TokenBatch& batch) {
    std::vector<int> numbers;
    for (std::int64_t n = 0; n < batch.num_sequences; ++n) {
      const auto at = static_cast<std::size_t>(n * batch.sequence_length);
      std::size_t prompt = 0;
      while (batch.tokens[at + prompt] == 'p') ++prompt;
      std::string number;
      std::vector<std::int32_t> tokens(prompt, 'p'), targets(prompt - 1, -1), positions, documents;
      for (std::size_t i = 0; i < 3; ++i) number += static_cast<char>(batch.tokens[at + prompt + i]);
      for (const char c : number) tokens.push_back(c);
      tokens.push_back(256);
      targets.insert(targets.end(), tokens.begin() + static_cast<std::ptrdiff_t>(prompt), tokens.end());
      targets.push_back(-1);
      const std::size_t chosen = tokens.size();
      tokens.insert(tokens.end(), prompt, 'p');
      tokens.insert(tokens.end(), {'z', 256});
      targets.insert(targets.end(), prompt - 1, -1);
      targets.insert(targets.end(), {'z', 256, -1});
      const std::size_t both = tokens.size();
      tokens.resize(static_cast<std::size_t>(batch.sequence_length), 256);
      targets.resize(tokens.size(), -1);
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        const std::size_t begin = i < chosen ? 0 : i < both ? chosen : both;
        positions.push_back(static_cast<std::int32_t>(i - begin));
        documents.push_back(i < chosen ? 0 : i < both ? 1 : 2);
      }
      const auto part = [&](const std::vector<std::int32_t>& column) {
        return std::vector<std::int32_t>(column.begin() + static_cast<std::ptrdiff_t>(at),
                                         column.begin() + static_cast<std::ptrdiff_t>(at + tokens.size()));
      };
      EXPECT_EQ(part(batch.tokens), tokens);
      EXPECT_EQ(part(batch.targets), targets);
      EXPECT_EQ(part(batch.positions), positions);
      EXPECT_EQ(part(batch.documents), documents);
      numbers.push_back(std::stoi(number) - 100);
      EXPECT_EQ(prompt, static_cast<std::size_t>(numbers.back() % 5 + 1));
    }
    return numbers;
  }
  static constexpr int num_pairs = 40;
  std::shared_ptr<const TokenFile> file_;
};

TEST_F(PairLoader, ASampleIsAWholePair) {
  ASSERT_TRUE(read_token_meta(*file_)->has_pairs);
  Loader l = loader(20);
  EXPECT_EQ(l.num_held_out_sequences(), 4);
  EXPECT_EQ(l.sequences_per_epoch(), 36);
  EXPECT_EQ(l.num_left_out(), 0);
  const std::vector<int> held_out = pairs_of(l.held_out_batch(4));
  std::vector<int> before;
  for (const std::int64_t epoch : {0, 1}) {
    const std::vector<int> seen = pairs_of(l.fetch(36 * epoch, 36));
    std::set<int> all(seen.begin(), seen.end());
    EXPECT_EQ(all.size(), 36U);
    for (const int pair : held_out) EXPECT_FALSE(all.contains(pair));
    EXPECT_NE(seen, before);
    before = seen;
  }
  // A function of the number alone, counted without reading tokens.
  EXPECT_EQ(pairs_of(l.fetch(30, 10)), [&] {
    std::vector<int> one_by_one;
    for (std::int64_t i = 30; i < 40; ++i) one_by_one.push_back(pairs_of(l.fetch(i, 1)).at(0));
    return one_by_one;
  }());
  for (const std::int64_t count : {0, 1, 7}) EXPECT_EQ(l.num_targets(33, count), l.fetch(33, count).num_targets());
  EXPECT_EQ(l.num_targets(0, 1), 4 + 2);
  std::int64_t longest = 0;
  for (const int pair : pairs_of(l.fetch(5, 6))) longest = std::max<std::int64_t>(longest, 2 * (pair % 5 + 1) + 4 + 2);
  EXPECT_EQ(l.longest_pair(5, 6), longest);
}

TEST_F(PairLoader, PairsThatDoNotFitAreLeftOut) {
  Loader l = loader(12, 0);  // prompts of 4 and 5 letters are too long
  EXPECT_EQ(l.num_left_out(), 16);
  EXPECT_EQ(l.sequences_per_epoch(), 24);
  for (const int pair : pairs_of(l.fetch(0, 24))) EXPECT_LT(pair % 5, 3);
  EXPECT_THAT(error_of([&] { loader(7); }), HasSubstr("each of the 36 training pairs has more than 7 tokens"));
  write_file(path("plain.txt"), "a text");
  tokenize_files({path("plain.txt")}, *byte_tokenizer(), path("plain"));
  file_ = std::make_shared<TokenFile>(path("plain"));
  EXPECT_THAT(error_of([&] { loader(20); }), HasSubstr("has 1 documents without a mask, expected pairs"));
}

TEST_F(PairLoader, AMixtureHasTheirLongest) {
  Mixture mixture({{file_, 0.5}, {file_, 0.5}},
                  {.sequence_length = 20, .vocabulary = 257, .seed = 3, .held_out = 0, .has_pairs = true});
  EXPECT_TRUE(mixture.has_pairs());
  for (const std::int64_t first : {0, 13}) {
    std::int64_t longest = 0;
    for (const int pair : pairs_of(mixture.fetch(first, 5)))
      longest = std::max<std::int64_t>(longest, 2 * (pair % 5 + 1) + 4 + 2);
    EXPECT_EQ(mixture.longest_pair(first, 5), longest);
  }
}

}  // namespace
}  // namespace limbeck::data
