#include "data/tokenizers/tokenizer_sentencepiece.h"

#include <gmock/gmock.h>
#include <sentencepiece_processor.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>

#include "data/text/text_source.h"
#include "data/tokenizers/tokenizer_gguf.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using Ids = std::vector<std::int32_t>;
using Model = SentencePieceModel;
using nlohmann::json;
using testing::error_of;
using ::testing::HasSubstr;
using testing::read_file;
using ::testing::StartsWith;
using testing::TemporaryFolder;
using testing::write_file;

std::filesystem::path golden(const std::string& name) { return testing::golden_folder() / "sentencepiece" / name; }

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

std::vector<json> golden_lines() {
  std::istringstream lines(read_document(golden("strings.jsonl.gz").string()));
  std::vector<json> result;
  for (std::string line; std::getline(lines, line);) result.push_back(json::parse(line));
  return result;
}

std::shared_ptr<const Tokenizer> bpe() { return sentencepiece_from_file(golden("bpe.model")); }
std::shared_ptr<const Tokenizer> gguf() { return tokenizer_from_gguf(GgufFile(golden("bpe.gguf").string())); }

void expect_golden(const Tokenizer& tokenizer, const std::string& name) {
  const auto lines = golden_lines();
  ASSERT_GE(lines.size(), 400U);
  for (const auto& line : lines) {
    const std::string text = from_hex(line["text"]);
    const Ids expected = line[name]["ids"];
    ASSERT_EQ(tokenizer.encode(text), expected) << line;
    ASSERT_EQ(tokenizer.decode(expected), from_hex(line[name].value("decoded", line["text"]))) << line;
  }
}

TEST(SentencePiece, BpeAgreesWithTheOracle) { expect_golden(*bpe(), "bpe"); }
TEST(SentencePiece, UnigramAgreesWithTheOracle) {
  expect_golden(*sentencepiece_from_file(golden("unigram.model")), "unigram");
}

TEST(SentencePiece, GgufAgreesWithLlamaCpp) {
  const auto tokenizer = gguf();
  int num_special = 0;
  for (const auto& line : golden_lines()) {
    const std::string text = from_hex(line["text"]);
    const Ids expected = line.value("gguf", line["bpe"]["ids"].get<Ids>());
    ASSERT_EQ(tokenizer->encode(text), expected) << line;
    ASSERT_EQ(tokenizer->encode(text, true), line.value("gguf_special", expected)) << line;
    num_special += line.contains("gguf_special") ? 1 : 0;
  }
  EXPECT_GT(num_special, 15);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->start_of_text_id(), 1);
}

TEST(SentencePiece, SurvivesACheckpointAndAnExport) {
  const TemporaryFolder folder;
  for (const char* name : {"bpe", "unigram"}) {
    const auto tokenizer = sentencepiece_from_file(golden(std::string(name) + ".model"));
    const auto copy = tokenizer_from_json(tokenizer->to_json(), "checkpoint");
    EXPECT_EQ(dynamic_cast<const SentencePieceTokenizer&>(*copy).description(),
              dynamic_cast<const SentencePieceTokenizer&>(*tokenizer).description());
    expect_golden(*copy, name);
    const HuggingFaceTokenizer files = tokenizer->to_hugging_face();
    write_file(folder / "tokenizer.model", files.tokenizer_model);
    write_file(folder / "tokenizer_config.json", files.tokenizer_config_json);
    EXPECT_EQ(files.tokenizer_json, "");
    const auto exported = sentencepiece_from_file(folder / "tokenizer.model");
    expect_golden(*exported, name);
    EXPECT_EQ(exported->eos_id(), 2);
    EXPECT_EQ(exported->start_of_text_id(), 1);
  }
  const auto copy = tokenizer_from_json(gguf()->to_json(), "checkpoint");
  EXPECT_EQ(copy->encode("[INST]x"), gguf()->encode("[INST]x"));
  for (const char* bad :
       {R"({"format":"limbeck sentencepiece 1"})", R"({"format":"limbeck sentencepiece 1","model":"!"})",
        R"({"format":"limbeck sentencepiece 1","model":"AAAA"})"})
    EXPECT_THAT(error_of([&] { tokenizer_from_json(bad, "step_3"); }), StartsWith("step_3: ")) << bad;
}

TEST(SentencePiece, ControlTokensAreTextUnlessParsed) {
  const auto t = bpe();
  const Ids text = t->encode("a</s>b");
  EXPECT_EQ(std::count(text.begin(), text.end(), 2), 0);
  EXPECT_EQ(t->decode(text), "a</s>b");
  Ids parsed = t->encode("a");
  parsed.push_back(2);
  for (const auto id : t->encode("b")) parsed.push_back(id);
  EXPECT_EQ(t->encode("a</s>b", true), parsed);
  EXPECT_EQ(t->decode(parsed), "a b");  // the model's space in front of b
  EXPECT_EQ(t->id_of("</s>"), 2);
  EXPECT_EQ(t->id_of("<|tool|>"), 3);
  EXPECT_EQ(t->id_of("no such token"), std::nullopt);
  EXPECT_EQ(t->end_of_text_id(), 2);
  EXPECT_EQ(t->vocabulary_size(), 800);
  EXPECT_THAT(error_of([&] { t->decode(Ids{800}); }), HasSubstr("id 800 is outside"));
  EXPECT_THAT(error_of([&] { t->decode_inside(-1); }), HasSubstr("id -1 is outside"));
}

TEST(SentencePiece, InvalidUtf8IsRepaired) {
  const auto t = bpe();
  EncodeCounts counts;
  EXPECT_EQ(t->encode("a\xff\xe6\xbc z", false, &counts), t->encode("a\xef\xbf\xbd\xef\xbf\xbd z"));
  EXPECT_EQ(counts.repaired_sequences, 2);
}

TEST(SentencePiece, AStreamKeepsItsSpacesAndGivesWholeCharacters) {
  const auto t = bpe();
  const std::string text = "The state is 漢字, and 😀 too.";
  const Ids ids = t->encode(text);
  EXPECT_EQ(t->decode(ids), text);
  StreamDecoder stream(*t);
  std::string streamed;
  for (const auto id : ids) {
    const std::string part = stream.feed(id);
    EXPECT_EQ(part.find("\xef\xbf\xbd"), std::string::npos);
    streamed += part;
  }
  EXPECT_EQ(streamed + stream.finish(), " " + text);  // it goes on from a prompt
  const Ids cut = {*t->id_of("<0xE6>"), *t->id_of("<0xBC>")};
  EXPECT_EQ(t->decode(cut), "\xe6\xbc");
  EXPECT_EQ(stream.feed(cut[0]), "");
  EXPECT_EQ(stream.feed(cut[1]), "");
  EXPECT_EQ(stream.finish(), "\xef\xbf\xbd");
}

TEST(SentencePiece, LongTextsInPartsAreAsTheLibraryDoesThemWhole) {
  std::string text;
  std::mt19937 random(5);
  const auto lines = golden_lines();
  while (text.size() < 60'000) text += from_hex(lines[random() % lines.size()]["text"]) + " some words follow ";
  for (const char* name : {"bpe.model", "unigram.model"}) {
    sentencepiece::SentencePieceProcessor whole;
    ASSERT_TRUE(whole.Load(golden(name).string()).ok());
    std::vector<int> expected;
    ASSERT_TRUE(whole.Encode(text, &expected).ok());
    EXPECT_EQ(sentencepiece_from_file(golden(name))->encode(text), expected) << name;
  }
}

TEST(SentencePiece, ThreadsMayShareIt) {
  const auto tokenizer = bpe();
  const auto lines = golden_lines();
  std::vector<std::jthread> threads;
  std::array<int, 4> wrong{};
  for (std::size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < lines.size(); i += 3)
        wrong[t] += tokenizer->encode(from_hex(lines[i]["text"])) != lines[i]["bpe"]["ids"].get<Ids>() ? 1 : 0;
    });
  threads.clear();
  EXPECT_EQ(wrong, (std::array<int, 4>{}));
}

TEST(SentencePiece, TokensBesideTheModelAreCutOut) {
  const TemporaryFolder folder;
  write_file(folder / "tokenizer.model", read_file(golden("bpe.model")));
  write_file(folder / "tokenizer_config.json", R"({"add_bos_token": false, "bos_token": "<s>",
    "eos_token": {"content": "<|end|>"}, "chat_template": "{{ messages }}", "added_tokens_decoder": {
    "2": {"content": "</s>", "special": false}, "800": {"content": "<|user|>", "special": true, "rstrip": true},
    "802": {"content": "<|end|>", "special": true}, "803": {"content": "<|code|>", "special": false, "lstrip": true}}})");
  const auto t = sentencepiece_from_file(folder / "tokenizer.model");
  EXPECT_EQ(t->vocabulary_size(), 804);
  EXPECT_EQ(t->eos_id(), 802);
  EXPECT_EQ(t->start_of_text_id(), std::nullopt);
  const Ids hi = bpe()->encode("Hi");
  const auto around = [&](Ids before, const Ids& middle, const Ids& after) {
    before.insert(before.end(), middle.begin(), middle.end());
    before.insert(before.end(), after.begin(), after.end());
    return before;
  };
  EXPECT_EQ(t->encode("<|user|> \n Hi<|end|>", true), around({800}, hi, {802}));
  EXPECT_EQ(t->encode("Hi \t<|code|>Hi"), around(hi, {803}, hi));
  EXPECT_EQ(t->encode("Hi</s>"), bpe()->encode("Hi</s>"));  // a control piece, though Phi-3's config says otherwise
  EXPECT_EQ(t->encode("Hi</s>", true), around(hi, {2}, {}));
  EXPECT_EQ(t->encode("<|user|>"), bpe()->encode("<|user|>"));
  EXPECT_EQ(t->decode(Ids{800, hi[0], 803, 801}), bpe()->decode(Ids{hi[0]}) + "<|code|>");
  const auto copy = tokenizer_from_json(t->to_json(), "copy");
  EXPECT_EQ(copy->encode("<|user|> Hi</s>", true), t->encode("<|user|> Hi</s>", true));
  const json config = json::parse(t->to_hugging_face().tokenizer_config_json);
  EXPECT_EQ(config["added_tokens_decoder"]["800"]["rstrip"], true);
  EXPECT_EQ(config["chat_template"], "{{ messages }}");
  EXPECT_EQ(config["eos_token"], "<|end|>");

  const auto refused = [&](const std::string& text) {
    write_file(folder / "tokenizer_config.json", text);
    return error_of([&] { sentencepiece_from_file(folder / "tokenizer.model"); });
  };
  EXPECT_THAT(refused("{"), HasSubstr("tokenizer_config.json: "));
  EXPECT_THAT(refused("[]"), HasSubstr("tokenizer_config.json: is array, expected an object"));
  EXPECT_THAT(refused(R"({"eos_token": "<nothing>"})"), HasSubstr("end-of-sequence token <nothing> is not in"));
  EXPECT_THAT(refused(R"({"added_tokens_decoder": {"x": {"content": "a"}}})"), HasSubstr("has a key \"x\""));
  EXPECT_THAT(refused(R"({"added_tokens_decoder": {"900000": {"content": "a"}}})"), HasSubstr("has id 900000"));
  EXPECT_THAT(refused(R"({"added_tokens_decoder": {"801": {"content": ""}}})"), HasSubstr("added token 801 is empty"));
  EXPECT_THAT(refused(R"({"add_bos_token": 3})"), HasSubstr("tokenizer_config.json: "));
  std::filesystem::remove(folder / "tokenizer_config.json");
  write_file(folder / "added_tokens.json", R"({"<|x|>": 800})");
  EXPECT_EQ(sentencepiece_from_file(folder / "tokenizer.model")->encode("<|x|>"), Ids{800});
  write_file(folder / "added_tokens.json", R"({"<|x|>": -1})");
  EXPECT_THAT(error_of([&] { sentencepiece_from_file(folder / "tokenizer.model"); }),
              HasSubstr("added_tokens.json: <|x|> is -1"));
}

TEST(SentencePieceModelTest, WhatIsWrittenIsReadAgain) {
  for (const char* name : {"bpe.model", "unigram.model"}) {
    const Model model = parse_sentencepiece_model(read_file(golden(name)), name);
    EXPECT_EQ(parse_sentencepiece_model(serialize(model), name), model);
    EXPECT_EQ(model.charsmap.empty(), model.kind == Model::Kind::Bpe);
  }
}

Model small_model() {
  Model model;
  model.kind = Model::Kind::Bpe;
  model.pieces = {{"<unk>", 0, Model::Type::Unknown}, {"</s>", 0, Model::Type::Control}, {"▁", -1}, {"a", -2}};
  return model;
}

TEST(SentencePieceModelTest, BrokenModelsAreRefusedByName) {
  const auto refused = [](auto change) {
    Model model = small_model();
    change(model);
    const std::string message = error_of([&] { SentencePieceTokenizer({.model = model}, "f.model"); });
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message;
  };
  using Type = Model::Type;
  EXPECT_EQ(refused([](Model&) {}), "");
  EXPECT_EQ(refused([](Model& m) { m.pieces.clear(); }), "f.model: holds no pieces, expected a SentencePiece model");
  EXPECT_THAT(refused([](Model& m) { m.pieces[3].text = ""; }), HasSubstr("f.model: piece 3 has 0 bytes"));
  EXPECT_THAT(refused([](Model& m) { m.pieces[3].text = std::string(5000, 'a'); }), HasSubstr("piece 3 has 5000"));
  EXPECT_THAT(refused([](Model& m) { m.pieces[3].text = "\xff"; }), HasSubstr("piece 3 is not valid UTF-8"));
  EXPECT_THAT(refused([](Model& m) { m.pieces[3].text = std::string(1, '\0'); }), HasSubstr("without NUL"));
  EXPECT_THAT(refused([](Model& m) { m.pieces[3].text = "▁"; }), HasSubstr("pieces 2 and 3 are the same"));
  EXPECT_THAT(refused([](Model& m) { m.pieces[3].score = std::nanf(""); }), HasSubstr("piece 3 has a score of nan"));
  EXPECT_THAT(refused([](Model& m) { m.pieces[0].type = Type::Normal; }), HasSubstr("0 pieces are of type unknown"));
  EXPECT_THAT(refused([](Model& m) { m.pieces[3].type = Type::Unknown; }), HasSubstr("2 pieces are of type unknown"));
  EXPECT_THAT(refused([](Model& m) { m.pieces.resize(2); }), HasSubstr("no piece is of type normal"));
  EXPECT_THAT(refused([](Model& m) { m.byte_fallback = true; }), HasSubstr("0 pieces are bytes, expected 256"));
  EXPECT_THAT(refused([](Model& m) { m.pieces.push_back({"<0x1G>", 0, Type::Byte}); }), HasSubstr("type byte"));
  EXPECT_THAT(refused([](Model& m) {
                m.pieces.push_back({"<0x1A>", 0, Type::Byte});
              }),
              HasSubstr("1 pieces are bytes"));
  EXPECT_THAT(refused([](Model& m) {
                for (std::size_t i = 1; i < 70; ++i) m.pieces.push_back({std::string(i, 'u'), 0, Type::UserDefined});
              }),
              HasSubstr("64 user-defined pieces"));
  EXPECT_THAT(error_of([&] { SentencePieceTokenizer({.model = small_model(), .eos = 4}, "f.model"); }),
              HasSubstr("end-of-sequence id is 4"));
}

TEST(SentencePieceModelTest, BrokenFilesAreRefusedByByte) {
  const auto refused = [](const std::string& bytes) {
    return error_of([&] { parse_sentencepiece_model(bytes, "f.model"); });
  };
  const std::string piece =
      "\x0a\x03\x0a\x01"
      "a";
  EXPECT_EQ(refused(""), "f.model: holds no pieces, expected a SentencePiece model");
  EXPECT_THAT(refused("GGUF"), StartsWith("f.model: byte 0: the model has a field of wire type 7"));
  EXPECT_THAT(refused("{\"version\": 1}"), StartsWith("f.model: byte 0: "));
  EXPECT_THAT(refused("\x0a\x03\x0a\x01"
                      "a"),
              HasSubstr("ends after 1 pieces, expected trainer_spec"));
  EXPECT_THAT(refused(piece.substr(0, 4)), HasSubstr("byte 2: field 1 of the model has 3 bytes, but only 2 are left"));
  EXPECT_THAT(refused("\x08\x01"), HasSubstr("byte 1: field 1 of the model has wire type 0, expected 2"));
  EXPECT_THAT(refused(std::string("\x0a\x02\x18\x07")), HasSubstr("piece 0 has type 7, expected 1 to 6"));
  EXPECT_THAT(refused(piece + std::string("\x12\x02\x18\x03")), HasSubstr("model_type is 3, expected 1"));
  EXPECT_THAT(refused(std::string(12, '\xff')), HasSubstr("more than 10 bytes"));
  EXPECT_THAT(refused(std::string("\x02\x00", 2)), HasSubstr("field number 0"));
  EXPECT_THAT(refused(std::string("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")), HasSubstr("but only 0 are left"));
  EXPECT_THAT(refused(piece + std::string("\x2a\x03\x12\x01x")), HasSubstr("has a denormalizer"));
}

/// A table of one block: what `change` makes of "a" -> "b".
std::string table_of(const std::function<void(std::vector<std::uint32_t>&)>& change, std::string replacements) {
  std::vector<std::uint32_t> units(256, 1U << 31U);  // labels that lead nowhere
  units[0] = 1U << 10U;                              // the root's base is 1
  units[1 ^ 'a'] = 'a' | 1U << 8U | 2U << 10U;       // "a", with a value at its base
  units[1 ^ 'a' ^ 2] = 1U << 31U;                    // the value: byte 0 of the replacements
  change(units);
  const auto bytes = static_cast<std::uint32_t>(units.size() * 4);
  std::string table(reinterpret_cast<const char*>(&bytes), 4);
  table.append(reinterpret_cast<const char*>(units.data()), bytes);
  return table + std::move(replacements);
}

TEST(SentencePieceModelTest, BrokenTablesAreRefused) {
  using Units = std::vector<std::uint32_t>;
  const std::string good("b\0", 2);
  const auto refused = [](const std::string& table) {
    return error_of([&] {
      Model model = small_model();
      model.charsmap = table;
      SentencePieceTokenizer({.model = model, .eos = 1}, "f.model");
    });
  };
  const std::string table = table_of([](Units&) {}, good);
  EXPECT_EQ(refused(table), "");
  EXPECT_FALSE(check_charsmap(table, "m"));
  Model model = small_model();
  model.charsmap = table;
  model.pieces[3].text = "b";
  EXPECT_EQ(SentencePieceTokenizer({.model = model, .eos = 1}, "m").encode("a", false, nullptr), (Ids{2, 3}));

  EXPECT_THAT(refused("abc"), HasSubstr("f.model: the normalizer's table has 3 bytes"));
  EXPECT_THAT(refused(table.substr(0, 1000)), HasSubstr("the normalizer's trie has 1024 of 996 bytes"));
  EXPECT_THAT(refused(table.substr(0, table.size() - 1)), HasSubstr("do not end with a NUL"));
  EXPECT_THAT(refused(table_of([](Units& u) { u[0] = 1U << 20U; }, good)), HasSubstr("leads from unit 0 to 1024"));
  EXPECT_THAT(refused(table_of([](Units& u) { u[1 ^ 'a' ^ 2] = 1U << 31U | 2U; }, good)), HasSubstr("at byte 2 of 2"));
  EXPECT_THAT(refused(table_of([](Units&) {}, std::string(2000, 'b') + '\0')), HasSubstr("longer than 1024"));
  EXPECT_THAT(refused(table_of([](Units& u) { u[1 ^ 'a' ^ 2] = 0; }, good)), HasSubstr("a key with a NUL"));
  // "a", "aa", "aaa" and so on without end: the unit leads to itself.
  EXPECT_THAT(refused(table_of([](Units& u) { u[1 ^ 'a'] = 'a' | 97U << 10U; }, good)), HasSubstr("has a circle"));
  // " a": a rule that reaches over a space.
  const std::string crossing = table_of(
      [](Units& u) {
        u[1 ^ ' '] = ' ' | 4U << 10U;
        u[1 ^ ' ' ^ 4 ^ 'a'] = 'a' | 1U << 8U | 128U << 10U;
        u[1 ^ ' ' ^ 4 ^ 'a' ^ 128] = 1U << 31U;
      },
      good);
  EXPECT_EQ(refused(crossing), "");
  EXPECT_TRUE(check_charsmap(crossing, "m"));
}

/// Opens what `bytes` holds, and encodes with it if it opens. Whatever it is: one line that begins with the name.
bool opens(const std::string& bytes) {
  const std::string message = error_of([&] {
    Model model = parse_sentencepiece_model(bytes, "f.model");
    const SentencePieceTokenizer tokenizer({.model = std::move(model)}, "f.model");
    for (const char* text : {"the <sep> state [INST]", "\xef\xbc\xa1\xef\xac\x81\t\xe3\x80\x80 x\xcc\x88", ""})
      tokenizer.decode(tokenizer.encode(text, true, nullptr));
  });
  if (message.empty()) return true;
  EXPECT_TRUE(message.starts_with("f.model: ") || message.starts_with("tokenizer: ")) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  return false;
}

TEST(SentencePieceModelTest, HostileFilesNeitherCrashNorPrint) {
  ::testing::internal::CaptureStderr();
  std::mt19937 random(3);
  int num_opened = 0;
  for (const char* name : {"bpe.model", "unigram.model"}) {
    const std::string good = read_file(golden(name));
    ASSERT_TRUE(opens(good));
    for (int i = 0; i < 300; ++i) {
      EXPECT_FALSE(opens(good.substr(0, random() % 9000)));  // pieces come first, and bytes or replacements are missing
      std::string bad = good;
      for (int n = 1 + i % 4; n > 0; --n) bad[random() % bad.size()] = static_cast<char>(random());
      num_opened += opens(bad) ? 1 : 0;
      std::string tail = good;  // trainer and normalizer
      tail[tail.size() - 1 - random() % 4000] = static_cast<char>(random());
      num_opened += opens(tail) ? 1 : 0;
      std::string noise(random() % 3000, '\0');
      for (auto& c : noise) c = static_cast<char>(random());
      EXPECT_FALSE(opens(noise));
    }
  }
  EXPECT_GT(num_opened, 100);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace limbeck::data
