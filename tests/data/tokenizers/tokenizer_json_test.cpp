#include "data/tokenizers/tokenizer_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "data/text/text_source.h"
#include "data/tokenizers/unicode.h"
#include "tests/support/golden_lines.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using Ids = std::vector<std::int32_t>;
using nlohmann::json;
using testing::error_of;
using testing::from_hex;
using testing::golden_lines;

void expect_ids_of_the_oracle(const std::string& file, std::size_t num_families) {
  const auto lines = golden_lines(file);
  std::vector<std::string> texts;
  for (const auto& text : lines[0]["texts"]) texts.push_back(from_hex(text));
  EXPECT_EQ(lines.size(), 1 + num_families);
  for (std::size_t f = 1; f < lines.size(); ++f) {
    const json& line = lines[f];
    const std::string family = line["family"];
    const auto tokenizer = tokenizer_from_hugging_face({line["tokenizer_json"].get<std::string>(), "{}"}, family);
    const auto copy = tokenizer_from_json(tokenizer->to_json(), "copy");
    EXPECT_EQ(copy->to_hugging_face().tokenizer_json, line["tokenizer_json"].get<std::string>()) << family;
    const auto start = tokenizer->start_of_text_id();
    EXPECT_EQ(start.value_or(-1), line.value("start", -1)) << family;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const std::string index = std::to_string(i);
      const Ids expected = line["ids"][i];
      ASSERT_EQ(tokenizer->encode(texts[i], true), expected) << family << ": " << texts[i];
      ASSERT_EQ(copy->encode(texts[i], true), expected) << family << ": " << texts[i];
      const Ids plain = line["plain"].contains(index) ? line["plain"][index].get<Ids>() : expected;
      ASSERT_EQ(tokenizer->encode(texts[i]), plain) << family << ": " << texts[i];
      const bool is_other = line["decoded"].contains(index);
      const std::string decoded = is_other ? from_hex(line["decoded"][index]) : texts[i];
      ASSERT_EQ(repair_utf8(tokenizer->decode(expected)).utf8, decoded) << family << ": " << texts[i];
    }
  }
}

TEST(TokenizerJson, FamiliesAgreeWithTheOracle) { expect_ids_of_the_oracle("tokenizer_json/families.jsonl.gz", 14); }
TEST(TokenizerJson, PiecesAgreeWithTheOracle) { expect_ids_of_the_oracle("tokenizer_json/pieces.jsonl.gz", 4); }
TEST(TokenizerJson, ByteFallbackAgreesWithTheOracle) {
  expect_ids_of_the_oracle("tokenizer_json/byte_fallback.jsonl.gz", 7);
}

/// Bytes, "ab", an added token; a file of little more than that.
json small() {
  json vocabulary = json::object();
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    vocabulary[alphabet_of_bytes({&c, 1})] = byte;
  }
  vocabulary["ab"] = 256;
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  return {{"added_tokens", {{{"id", 257}, {"content", "</s>"}, {"special", true}, {"normalized", false}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", bytes},
          {"decoder", bytes},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"a b"}}}}};
}

std::shared_ptr<const Tokenizer> open(const json& document, const std::string& config = "") {
  return tokenizer_from_hugging_face({document.dump(), config}, "t.json");
}

TEST(TokenizerJson, SmallFile) {
  const auto t = open(small());
  EXPECT_EQ(t->encode("abc</s>", true), (Ids{256, 'c', 257}));
  EXPECT_EQ(t->encode("b\n"), (Ids{'b', '\n'}));
  EXPECT_EQ(t->eos_id(), 257);  // by its name
  EXPECT_EQ(t->start_of_text_id(), std::nullopt);
  EXPECT_EQ(t->vocabulary_size(), 258);
  EXPECT_EQ(open(small(), R"({"eos_token": {"content": "ab"}, "bos_token": "a"})")->eos_id(), 256);
}

TEST(TokenizerJson, GapsAreIdsOfNothing) {
  json document = small();
  document["added_tokens"][0]["id"] = 300;
  const auto t = open(document);
  EXPECT_EQ(t->vocabulary_size(), 301);
  EXPECT_EQ(t->decode(Ids{280, 'a'}), "a");
  EXPECT_EQ(t->encode("</s>", true), Ids{300});
}

TEST(TokenizerJson, MergesAreTextsOrPairs) {
  json document = small();
  document["model"]["merges"] = {"#version: 0.2", {"a", "b"}};
  EXPECT_EQ(open(document)->encode("ab"), Ids{256});
  document["model"].erase("type");  // GPT-2's own file has none
  EXPECT_EQ(open(document)->encode("ab"), Ids{256});
}

TEST(TokenizerJson, AnAddedTokenIsNoneOfTheModels) {
  json document = small();
  document["added_tokens"][0]["content"] = "c";
  document["model"]["vocab"].erase("c");
  const auto t = open(document, R"({"eos_token": "c"})");
  EXPECT_EQ(t->encode("c", true), Ids{257});
  EncodeCounts counts;
  EXPECT_EQ(t->encode("ac", false, &counts), Ids{'a'});  // as text it is a byte without a token
  EXPECT_EQ(counts.dropped_bytes, 1);
}

TEST(TokenizerJson, TextsAreAnyBytes) {
  const auto t = open(small());
  EXPECT_EQ(t->encode(""), Ids{});
  EXPECT_EQ(t->encode(std::string_view("a\0b", 3)), (Ids{'a', 0, 'b'}));
  EncodeCounts counts;
  EXPECT_EQ(t->encode("a\xff", false, &counts), (Ids{'a', 0xef, 0xbf, 0xbd}));
  EXPECT_EQ(counts.repaired_sequences, 1);
  json document = small();
  document["added_tokens"][0]["content"] = std::string("<\0>", 3);
  const auto with_nul = open(document, R"({"eos_token": "a"})");
  EXPECT_EQ(with_nul->encode(std::string_view("a<\0>", 4), true), (Ids{'a', 257}));
  EXPECT_EQ(with_nul->decode(Ids{257}), std::string("<\0>", 3));
}

/// As in tokenizers 0.23.3: a token that the one before has taken as white space is not there again.
TEST(TokenizerJson, AnAddedTokenTakesThoseThatItStrips) {
  json document = small();
  document["added_tokens"][0].update({{"content", "\n"}, {"lstrip", true}, {"rstrip", true}});
  document["added_tokens"].push_back(
      {{"id", 258}, {"content", "<u>"}, {"special", true}, {"normalized", false}, {"rstrip", true}});
  const auto t = open(document, R"({"eos_token": "<u>"})");
  EXPECT_EQ(t->encode("a\n\nb", true), (Ids{'a', 257, 'b'}));
  EXPECT_EQ(t->encode("<u>\nb", true), (Ids{258, 'b'}));
}

TEST(TokenizerJson, ADecoderGrowsATokenWithinLimits) {
  json document =
      json::parse(R"({"normalizer": null, "pre_tokenizer": null, "added_tokens": [{"id": 2, "content": "</s>"}],
    "model": {"type": "BPE", "byte_fallback": true, "vocab": {"aba": 0, "b": 1}, "merges": []},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},
      {"type": "Replace", "pattern": {"String": "ba"}, "content": ""},
      {"type": "ByteFallback"}, {"type": "Fuse"}]}})");
  EXPECT_EQ(open(document)->decode(Ids{0, 1}), "aaab");
  json& steps = document["decoder"]["decoders"];
  steps.erase(1);
  for (int i = 0; i < 40; ++i) steps.insert(steps.begin(), json(steps[0]));
  EXPECT_EQ(error_of([&] { open(document); }), "t.json: its decoder makes more than 1216 bytes of token aba");
}

TEST(TokenizerJson, TemplatesPutOneTokenOnASide) {
  json document = small();
  document["post_processor"] = json::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": "y", "type_id": 0}}],
      "special_tokens": {"x": {"id": "x", "ids": [7], "tokens": ["x"]}, "y": {"id": "y", "ids": [8], "tokens": ["y"]}}})");
  const auto t = open(document);
  EXPECT_EQ(t->start_of_text_id(), 7);
  EXPECT_EQ(t->end_of_text_id(), 8);
  document["post_processor"]["special_tokens"]["x"]["ids"] = {7, 9};
  EXPECT_EQ(error_of([&] { open(document); }),
            "t.json: post_processor.single: puts several tokens on one side of a text, expected at most one");
}

TEST(TokenizerJson, WhatIsBrokenOrUnknownIsNamedByItsPath) {
  const auto refused = [](const char* patch, const std::string& config = "") {
    json document = small();
    document.merge_patch(json::parse(patch));
    const std::string message = error_of([&] { open(document, config); });
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  };
  using P = std::pair<const char*, const char*>;
  for (const auto& [patch, message] : std::vector<P>{
           {R"({"model": null})", "t.json: model is absent"},
           {R"({"model": [1]})", "t.json: model is [1], expected an object"},
           {R"({"model": {"type": "WordPiece"}})", "t.json: model.type is \"WordPiece\", expected BPE"},
           {R"({"model": {"dropout": 0.1}})", "t.json: model.dropout is 0.1, expected null"},
           {R"({"model": {"byte_fallback": true}})",
            "t.json: pre_tokenizer.type is \"ByteLevel\", expected one of Metaspace Split Digits Sequence"},
           {R"({"model": {"byte_fallback": true}, "pre_tokenizer": null})",
            "t.json: decoder.type is \"ByteLevel\", expected one of Replace ByteFallback Fuse Strip Sequence"},
           {R"({"model": {"byte_fallback": true}, "pre_tokenizer": null, "decoder": null})",
            "t.json: decoder: has no ByteFallback"},
           {R"({"model": {"byte_fallback": true}, "pre_tokenizer": null, "decoder": {"type": "Sequence", "decoders":
              [{"type": "ByteFallback"}, {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}]}})",
            "t.json: decoder.decoders[1]: comes after ByteFallback, expected the order Replace, ByteFallback"},
           {R"({"model": {"byte_fallback": true}, "pre_tokenizer": null, "decoder": {"type": "Sequence", "decoders":
              [{"type": "ByteFallback"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}})",
            "t.json: decoder: has no Fuse before Strip"},
           {R"({"model": {"byte_fallback": true}, "decoder": null, "pre_tokenizer": {"type": "Metaspace",
              "replacement": "ab"}})",
            "t.json: pre_tokenizer.replacement is \"ab\", expected one character"},
           {R"({"model": {"byte_fallback": true}, "decoder": null, "pre_tokenizer": {"type": "Metaspace",
              "replacement": "_", "prepend_scheme": "last"}})",
            "t.json: pre_tokenizer.prepend_scheme is \"last\", expected always, first or never"},
           {R"({"model": {"end_of_word_suffix": "</w>"}})",
            "t.json: model.end_of_word_suffix is \"</w>\", expected null"},
           {R"({"model": {"ignore_merges": 1}})", "t.json: model.ignore_merges is 1, expected true or false"},
           {R"({"model": {"unk_token": "<?>"}})",
            "t.json: model.unk_token is \"<?>\", expected a token of the vocabulary"},
           {R"({"model": {"vocab": {"a": -1}}})",
            "t.json: model.vocab.a is -1, expected a whole number from 0 to below"},
           {R"({"model": {"vocab": {"a": 4000000000}}})",
            "t.json: model.vocab.a is 4000000000, expected a whole number"},
           {R"({"model": {"vocab": {"a": "b"}}})", "t.json: model.vocab.a is \"b\", expected a whole number"},
           {R"({"model": {"vocab": {"cd": 99}}})", "t.json: model.vocab.cd is 99, which c has too"},
           {R"({"model": {"vocab": {"": 299}}})", "t.json: model.vocab: has an empty token"},
           {R"({"model": {"merges": {}}})", "t.json: model.merges is {}, expected an array"},
           {R"({"model": {"merges": ["a b", "ab"]}})", "t.json: model.merges[1] is \"ab\", expected two tokens"},
           {R"({"model": {"merges": [["a", "b", "c"]]}})",
            "t.json: model.merges[0] is [\"a\",\"b\",\"c\"], expected a pair"},
           {R"({"model": {"merges": [["a", 1]]}})", "t.json: model.merges[0][1] is 1, expected a text"},
           {R"({"model": {"merges": [["a", "b c"]]}})", "t.json: model.merges[0] is"},
           {R"({"model": {"merges": ["a z"]}})",
            "t.json: merge 0 is 'a z', of which not all parts are in the vocabulary"},
           {R"({"added_tokens": [{"id": 257}]})", "t.json: added_tokens[0].content is absent"},
           {R"({"added_tokens": [{"id": 257, "content": ""}]})",
            "t.json: added_tokens[0].content is \"\", expected a text"},
           {R"({"added_tokens": [{"id": 5, "content": "new"}]})", "t.json: added_tokens: the id of new is 5, which"},
           {R"({"added_tokens": [{"id": 5, "content": "ab"}]})", "t.json: added_tokens[0].id is 5, but ab is 256"},
           {R"({"added_tokens": [{"id": 999999, "content": "x1"}]})", "t.json: added_tokens[0].id is 999999, expected"},
           {R"({"added_tokens": [{"id": 257, "content": "x1"}, {"id": 257, "content": "x2"}]})",
            "t.json: added_tokens[1].id is 257, which added_tokens[0] has too"},
           {R"({"normalizer": {"type": "BertNormalizer"}})",
            "t.json: normalizer.type is \"BertNormalizer\", expected one of"},
           {R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Nmt"}]}})",
            "t.json: normalizer.normalizers[1].type is \"Nmt\", expected one of"},
           {R"({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}})",
            "t.json: normalizer.pattern.String is \"\", expected a text that is not empty"},
           {R"({"pre_tokenizer": null})", "t.json: pre_tokenizer: has no ByteLevel, expected a byte-level BPE"},
           {R"({"pre_tokenizer": {"type": "Metaspace"}})",
            "t.json: pre_tokenizer.type is \"Metaspace\", expected one of"},
           {R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated"}})",
            "t.json: pre_tokenizer.pattern.Regex: the regular expression \\w+ has '\\w' at byte 0"},
           {R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a*"}, "behavior": "Isolated"}})",
            "t.json: pre_tokenizer.pattern.Regex: the regular expression a* could match nothing"},
           {R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"}})",
            "t.json: pre_tokenizer.pattern.Regex: the regular expression (a cannot be compiled: "},
           {R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Sideways"}})",
            "t.json: pre_tokenizer.behavior is \"Sideways\", expected one of Isolated"},
           {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]}})",
            "t.json: pre_tokenizer.pretokenizers[1]: comes after ByteLevel"},
           {R"({"post_processor": {"type": "BertProcessing"}})", "t.json: post_processor.type is \"BertProcessing\""},
           {R"({"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B"}}]}})",
            "t.json: post_processor.single[0].Sequence.id is \"B\", expected A, once"},
           {R"({"decoder": {"type": "WordPiece"}})", "t.json: decoder.type is \"WordPiece\", expected one of"},
           {R"({"decoder": null})", "t.json: decoder: has no ByteLevel"},
       })
    EXPECT_TRUE(refused(patch).starts_with(message)) << refused(patch) << "\n  expected " << message;
  EXPECT_EQ(refused("{}", R"({"eos_token": "nobody"})"),
            "t.json: tokenizer_config.json: eos_token is \"nobody\", expected a token of the vocabulary");
  EXPECT_TRUE(refused("{}", "{").starts_with("t.json: tokenizer_config.json: parse error"));
  json without = small();
  without["added_tokens"] = json::array();
  EXPECT_EQ(error_of([&] { open(without); }),
            "t.json: tokenizer_config.json: eos_token is absent, expected the token that ends a sequence");
  EXPECT_TRUE(error_of([] {
                tokenizer_from_hugging_face({"{\"model\"", ""}, "t.json");
              }).starts_with("t.json: parse error"));
  json many = json::array();
  for (int i = 0; i < 65; ++i) many.push_back({{"type", "Digits"}, {"individual_digits", true}});
  json long_one = small();
  long_one["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", many}};
  EXPECT_EQ(error_of([&] { open(long_one); }),
            "t.json: pre_tokenizer.pretokenizers[64]: comes after 64 others, expected at most 64");
  json deep = {{"type", "NFC"}};
  for (int i = 0; i < 1000; ++i) deep = {{"type", "Sequence"}, {"normalizers", {deep}}};
  json document = small();
  document["normalizer"] = deep;
  EXPECT_NE(error_of([&] { open(document); }).find("t.json: is nested more than 64 deep"), std::string::npos);
}

TEST(TokenizerJson, FilesLieBesideEachOther) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "tokenizer.json", small().dump());
  EXPECT_EQ(open_hugging_face_tokenizer(folder.path())->eos_id(), 257);
  testing::write_file(folder / "tokenizer_config.json", R"({"eos_token": "ab"})");
  testing::write_file(folder / "chat_template.jinja", "{{ messages }}");
  for (const auto& path : {folder.path(), folder / "tokenizer.json"}) {
    const auto t = open_hugging_face_tokenizer(path);
    EXPECT_EQ(t->eos_id(), 256);
    EXPECT_EQ(json::parse(t->to_hugging_face().tokenizer_config_json)["chat_template"], "{{ messages }}");
  }
  EXPECT_NE(error_of([&] { open_hugging_face_tokenizer(folder / "missing"); }).find("missing"), std::string::npos);
}

TEST(RegexTest, RefusesWhatTheTwoSyntaxesReadDifferently) {
  for (const char* pattern :
       {"\\w",      "\\b",    "\\h",    "\\1",    "^a",       "(?i)a",   "(?m:a)",  "(?<n>a)",   "a{2}+",
        "a{2}?",    "[a[b]]", "[a&&b]", "[^\\S]", "[\\P{L}]", "[\\s-x]", "[!-\\d]", "[a-c-\\s]", "\\xe9",
        "\\p{Han}", "\\p{",   "\\p",    "\\",     "[a",       "[]",      "\\u12",   "\\x{}",     "(*UTF)a"})
    EXPECT_NE(error_of([&] { Regex(pattern, "here"); }).find("here: the regular expression "), std::string::npos)
        << pattern;
  EXPECT_EQ(pcre2_pattern("a.b{,3}{x}]", "x"), "a[^\\n]b{0,3}\\{x\\}\\]");
  const auto finds = [](const char* pattern, std::string_view text) {
    const Regex regex(pattern, "test");
    const auto found = regex.find(text, 0, regex.scratch());
    return found ? std::string(text.substr(found->begin, found->end - found->begin)) : "-";
  };
  EXPECT_EQ(finds("[a-z]$", "ab\nc"), "b");  // before any line end
  EXPECT_EQ(finds("[a-z]\\n?$", "1a\n"), "a\n");
  EXPECT_EQ(finds("\\p{^L}", "aé1"), "1");
  EXPECT_EQ(finds("\\P{L}", "a\xe1\xb2\x89"), "-");  // U+1C89, a letter of Unicode 16
  EXPECT_EQ(finds("\\v", "a\n\x0b"), "\x0b");        // one character there, a class in PCRE2
  EXPECT_EQ(finds("[\\u0061-c]+", "xabcd"), "abc");
  EXPECT_EQ(finds("[-\\d]+", "ab-1\u0663!"), "-1\u0663");
  EXPECT_EQ(finds(literal_pattern("a.b]{é").c_str(), "axb a.b]{é"), "a.b]{é");
}

TEST(RegexTest, StepsAndMemoryAreLimited) {
  const std::string many(3'000'000, 'a');
  const Regex group("(?:a|b)+c|(?:a|b)+", "test");  // more than the compiled code's own stack holds
  const auto found = group.find(many.substr(0, 200'000), 0, group.scratch());
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->end, 200'000U);
  const std::string spaces(12'000'000, ' ');  // are many steps, and in order
  const Regex of_gpt4(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", "test");
  EXPECT_EQ(of_gpt4.find(spaces, 0, of_gpt4.scratch()).value().end, spaces.size());
  const Regex nested("(?:a+)+b", "test");
  EXPECT_NE(error_of([&] { nested.find(many, 0, nested.scratch()); }).find("takes too many steps at byte 0 of 3000000"),
            std::string::npos);
  EXPECT_NE(error_of([&] { Regex(std::string(70'000, 'a'), "here"); }).find("here: the regular expression has 70000"),
            std::string::npos);
}

TEST(NormalizerTest, TextGrowsWithinLimits) {
  using Kind = NormalizerStep::Kind;
  const std::vector<NormalizerStep> doubling(40, {.kind = Kind::Replace, .pattern = "a", .content = "aa"});
  EXPECT_EQ(error_of([&] { Normalizer(doubling, "test").apply("a"); }),
            "test: its normalizer makes more than 1088 bytes of a text of 1");
  const std::vector<NormalizerStep> prepend{{.kind = Kind::Prepend, .content = std::string(100'000, 'x')}};
  EXPECT_EQ(error_of([&] { Normalizer(prepend, "test").apply("a"); }),
            "test: its normalizer makes more than 1088 bytes of a text of 1");
  EXPECT_EQ(Normalizer(prepend, "test").apply(""), "");
}

TEST(NormalizerTest, ManyMarksTakeNoQuadraticTime) {
  std::string text = "a";
  for (int i = 0; i < 200'000; ++i) text += "\u0301\u0323";  // classes 230, 220: all out of order
  const std::string nfd = unicode_form(text, UnicodeForm::Nfd);
  EXPECT_EQ(nfd.size(), text.size());
  EXPECT_TRUE(nfd.starts_with("a\u0323\u0323"));
  EXPECT_TRUE(nfd.ends_with("\u0301\u0301"));
}

TEST(NormalizerTest, NothingComposesAcrossAscii) {
  EXPECT_EQ(unicode_form("e\u0301x\u0301", UnicodeForm::Nfc), "\u00e9x\u0301");
  EXPECT_EQ(unicode_form("\u0301", UnicodeForm::Nfc), "\u0301");
  EXPECT_EQ(unicode_form("", UnicodeForm::Nfkd), "");
  EXPECT_EQ(unicode_form("ﬁ ①", UnicodeForm::Nfkc), "fi 1");
  EXPECT_EQ(unicode_form("\u1100\u1161\u11a8", UnicodeForm::Nfc), "\uac01");
}

}  // namespace
}  // namespace limbeck::data
