#include "data/models/gguf_export.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "data/models/families/families.h"
#include "data/models/gguf_model.h"
#include "data/models/gguf_names.h"
#include "data/models/gguf_write.h"
#include "data/tokenizers/tokenizer_bpe.h"
#include "data/tokenizers/tokenizer_gguf.h"
#include "data/tokenizers/tokenizer_sentencepiece.h"
#include "data/tokenizers/unicode.h"
#include "tests/support/golden_lines.h"
#include "tests/support/made_model.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Shape;
using ::testing::AllOf;
using testing::error_of;
using testing::golden_path;
using ::testing::HasSubstr;
using testing::MadeModel;
using testing::values_in;

nn::ModelConfig config_of(bool moe) {
  nn::ModelConfig c{.vocabulary = 300,
                    .width = 64,
                    .num_layers = 2,
                    .num_heads = 4,
                    .num_kv_heads = 2,
                    .head_width = 12,  // not width / heads
                    .mlp_width = moe ? 0 : 40,
                    .max_positions = 128,
                    .norm_eps = 0x1p-16,
                    .rope_base = 50000,
                    .tied_head = moe,
                    .moe = {}};
  if (moe) c.moe = {.num_experts = 5, .experts_per_token = 2, .expert_width = 40, .dense_layers = {}};
  return c;
}

class GgufExportTest : public ::testing::Test {
 protected:
  std::shared_ptr<GgufFile> written(const core::StateReader& model, const nn::ModelConfig& config,
                                    const GgufExport& options) {
    export_gguf(model, config, path(), options);
    return std::make_shared<GgufFile>(path());
  }
  std::string path() const { return folder_ / "out.gguf"; }
  testing::TemporaryFolder folder_;
};

TEST_F(GgufExportTest, Float32ComesBackExactly) {
  for (const bool moe : {false, true})
    for (const std::int64_t at_once : {std::int64_t{1} << 22, std::int64_t{1}, std::int64_t{2000}}) {
      const MadeModel made(config_of(moe));
      const GgufModel model(
          written(made, config_of(moe), {.dtype = DType::F32, .tokenizer = nullptr, .values_at_once = at_once}));
      EXPECT_EQ(model.model_config(), config_of(moe));
      ASSERT_EQ(model.tensors().size(), made.tensors().size());
      for (const auto& [name, _] : made.tensors()) EXPECT_EQ(values_in(model, name), values_in(made, name)) << name;
    }
}

TEST_F(GgufExportTest, AWidthThatTheHeadsDoNotDivideComesBack) {
  nn::ModelConfig config = config_of(false);
  config.num_heads = 6;
  const MadeModel made(config);
  EXPECT_EQ(GgufModel(written(made, config, {})).model_config(), config);
}

// A Bamba's file: of each head the channels that turn are its first and lie in pairs, the others as they are.
TEST_F(GgufExportTest, HeadsOfWhichAPartTurnsLieInPairsThere) {
  nn::ModelConfig config = config_of(false);
  config.head_width = 16;
  config.rotary_width = 6;
  config.mamba = {.num_heads = 8, .head_width = 16, .state_width = 6, .attention_layers = {1}};
  EXPECT_TRUE(beyond_all_families(config));  // a Bamba turns half of a head
  config.rotary_width = 8;
  const MadeModel made(config);
  const auto file = written(made, config, {});
  EXPECT_EQ(file->text("general.architecture"), "granitehybrid");
  EXPECT_EQ(file->integer("granitehybrid.rope.dimension_count"), 8);
  EXPECT_TRUE(file->boolean("granitehybrid.rope.scaling.finetuned"));
  const GgufModel model(file);
  EXPECT_EQ(model.model_config(), config);
  for (const auto& [name, stored] : {std::pair("q", "blk.1.attn_q.weight"), {"k", "blk.1.attn_k.weight"}}) {
    const std::string ours = fmt::format("layers.1.attention.{}.weight", name);
    const std::vector<float> values = values_in(made, ours);
    EXPECT_EQ(values_in(model, ours), values) << name;
    std::vector<float> there(values.size());
    file->read(file->tensors().at(stored), 0, std::ssize(there), there.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::size_t row = i / 64, within = row % 16;
      const std::size_t of = within < 8 ? row - within + within % 2 * 4 + within / 2 : row;
      ASSERT_EQ(there[i], values[of * 64 + i % 64]) << name << " row " << row;
    }
  }
}

TEST_F(GgufExportTest, NothingIsLeftWhereTheNameIsTaken) {
  fs::create_directory(path());
  const MadeModel made(config_of(false));
  EXPECT_THAT(error_of([&] { export_gguf(made, config_of(false), path(), {}); }),
              HasSubstr("is a folder, expected a file to write"));
  EXPECT_FALSE(fs::exists(path() + ".tmp"));
}

TEST_F(GgufExportTest, HoldsAFewRowsAtATime) {
  const MadeModel made(config_of(true));
  written(made, config_of(true), {.dtype = DType::F32, .tokenizer = nullptr, .values_at_once = 1});
  EXPECT_EQ(made.most_values(), 12 * 64);  // a head
}

TEST_F(GgufExportTest, OtherDtypesComeBackToTheirRounding) {
  struct Case {
    DType dtype;
    double error;  // of the largest value of a tensor
  };
  for (const bool moe : {false, true})
    for (const auto [dtype, error] :
         {Case{DType::F16, 0x1p-11}, {DType::BF16, 0x1p-8}, {DType::Q8_0, 0.5 / 127 + 0x1p-11}}) {
      const MadeModel made(config_of(moe));
      const std::int64_t num_halves = export_gguf(made, config_of(moe), path(), {.dtype = dtype, .tokenizer = nullptr});
      EXPECT_EQ(num_halves, dtype == DType::Q8_0 ? 4 : 0);  // o and down: rows of 48 and 40
      const GgufModel model(std::make_shared<GgufFile>(path()));
      for (const auto& [name, info] : made.tensors()) {
        const bool is_float = info.shape.rank() == 1 || name.ends_with("router.weight");
        const bool is_half = dtype == DType::Q8_0 && info.shape[info.shape.rank() - 1] % 32 != 0;
        EXPECT_EQ(model.tensors().at(name).dtype, is_float ? DType::F32 : is_half ? DType::F16 : dtype) << name;
        const auto a = values_in(model, name);
        const auto b = values_in(made, name);
        float largest = 0;
        float worst = 0;
        for (std::size_t i = 0; i < a.size(); ++i) {
          largest = std::max(largest, std::abs(b[i]));
          worst = std::max(worst, std::abs(a[i] - b[i]));
        }
        EXPECT_LE(worst, error * largest) << name;
        EXPECT_EQ(worst > 0, !is_float) << name;
      }
    }
}

// llama_moe.gguf and llama_dense.gguf are the gguf package's, rows permuted by the formula of llama.cpp's converter.
TEST_F(GgufExportTest, TensorsAndKeysAreThoseOfTheReference) {
  for (const char* name : {"gguf/llama_moe.gguf", "gguf/llama_dense.gguf"}) {
    const auto reference = std::make_shared<GgufFile>(golden_path(name));
    const GgufModel model(reference);
    const auto file = written(model, model.model_config(), {});
    ASSERT_EQ(file->tensors().size(), reference->tensors().size());
    for (const auto& [stored, tensor] : reference->tensors()) {
      ASSERT_EQ(file->tensors().at(stored).shape, tensor.shape) << stored;
      const std::int64_t size = tensor.shape.numel();
      std::vector<float> a(static_cast<std::size_t>(size));
      std::vector<float> b(static_cast<std::size_t>(size));
      file->read(file->tensors().at(stored), 0, size, a.data());
      reference->read(tensor, 0, size, b.data());
      EXPECT_EQ(a, b) << stored;
    }
    for (const auto& [key, value] : reference->metadata())
      EXPECT_TRUE(!key.starts_with("llama.") || file->metadata().at(key) == value) << key;
  }
}

TEST_F(GgufExportTest, WhatLlamaCannotSayIsRefusedInOneLine) {
  const MadeModel made(config_of(true));
  const auto refusal = [&](const nn::ModelConfig& config, const GgufExport& options = {}) {
    const std::string message = error_of([&] { export_gguf(made, config, path(), options); });
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_FALSE(fs::exists(path()));
    EXPECT_FALSE(fs::exists(path() + ".tmp"));
    return message;
  };
  auto config = config_of(true);
  config.mlp_width = 40;
  config.moe.dense_layers = {0};
  EXPECT_THAT(refusal(config), AllOf(HasSubstr("1 of 2 layers have experts, expected all (Mixtral)"),
                                     HasSubstr("no format of others holds this model, but a Limbeck checkpoint")));
  config = config_of(true);
  config.moe.renormalise = false;
  EXPECT_THAT(refusal(config), HasSubstr("moe.renormalise is false"));
  config = config_of(true);
  config.moe.weight_scale = 2.5;
  EXPECT_THAT(refusal(config), HasSubstr("moe.weight_scale is 2.5, expected 1"));
  config = config_of(true);
  config.moe.shared_width = 8;
  EXPECT_THAT(refusal(config), HasSubstr("moe.shared_width is 8, expected 0"));
  EXPECT_THAT(refusal(config_of(true), {.dtype = DType::Q4_1, .tokenizer = nullptr}), HasSubstr("dtype is Q4_1"));
  config = config_of(true);
  config.vocabulary = 200;
  EXPECT_THAT(refusal(config, {.dtype = DType::F32, .tokenizer = byte_tokenizer().get()}),
              HasSubstr("the tokenizer has 257 tokens, expected at most the model's 200"));
}

TEST_F(GgufExportTest, AnOlderFileStaysWhereTheNewOneFails) {
  MadeModel made(config_of(false));
  testing::write_file(path(), "older");
  made.values("layers.1.mlp.up.weight")[7] = 7e4F;
  EXPECT_THAT(
      error_of([&] { export_gguf(made, config_of(false), path(), {.dtype = DType::F16, .tokenizer = nullptr}); }),
      AllOf(HasSubstr("out.gguf: tensor blk.1.ffn_up.weight: a value is 70000"), HasSubstr("float16")));
  EXPECT_EQ(testing::read_file(path()), "older");
  EXPECT_FALSE(fs::exists(path() + ".tmp"));
  export_gguf(made, config_of(false), path(), {.dtype = DType::BF16, .tokenizer = nullptr});
  EXPECT_EQ(GgufFile(path()).integer("general.file_type"), 32);
  EXPECT_THAT(error_of([&] { export_gguf(made, config_of(false), folder_ / "no/such/folder.gguf", {}); }),
              HasSubstr("cannot be written: No such file or directory"));
}

TEST_F(GgufExportTest, AModelMayBeWrittenOverItsOwnFile) {
  const MadeModel made(config_of(true));
  const GgufModel model(written(made, config_of(true), {}));
  export_gguf(model, model.model_config(), path(), {.dtype = DType::F32, .tokenizer = nullptr});
  EXPECT_EQ(values_in(GgufModel(std::make_shared<GgufFile>(path())), "layers.1.moe.experts.down"),
            values_in(made, "layers.1.moe.experts.down"));
}

TEST_F(GgufExportTest, WriterCountsValues) {
  const auto plan = [] { return std::vector<GgufPlan>{{"a", DType::F32, {2, 3}}, {"b", DType::Q8_0, {32}}}; };
  const std::vector<float> values(64, 1.0F);
  {
    GgufWriter writer(path(), {}, plan());
    writer.write({values.data(), 4});
    EXPECT_THAT(error_of([&] { writer.write({values.data(), 3}); }), HasSubstr("tensor a [2,3] was given 7 values"));
    EXPECT_THAT(error_of([&] { writer.finish(); }), HasSubstr("0 of 2 tensors were written"));
  }
  EXPECT_FALSE(fs::exists(path() + ".tmp"));
  GgufWriter writer(path(), {{"k", std::vector<std::int32_t>{1, -2}}, {"e", std::vector<std::string>{}}}, plan());
  writer.write({values.data(), 4});
  writer.write({values.data(), 2});
  writer.write({values.data(), 32});
  EXPECT_THAT(error_of([&] { writer.write({values.data(), 1}); }), HasSubstr("2 tensors were planned"));
  writer.finish();
  const GgufFile file(path());
  EXPECT_EQ(file.integers("k"), (std::vector<std::int64_t>{1, -2}));
  EXPECT_TRUE(file.strings("e").empty());
  EXPECT_EQ(file.tensors().at("a").shape, (Shape{2, 3}));
  EXPECT_EQ(fs::file_size(path()) % 32, 0U);
  EXPECT_THAT(error_of([&] { GgufWriter bad(path(), {}, {{"x", DType::Q8_0, {33}}}); }), HasSubstr("33"));
  EXPECT_THAT(error_of([&] { GgufWriter bad(path(), {}, {{"x", DType::F32, {0}}}); }), HasSubstr("tensor x"));
}

TEST_F(GgufExportTest, TheByteTokenizerComesBack) {
  const MadeModel made(config_of(false));
  const auto tokenizer = byte_tokenizer();
  const auto file = written(made, config_of(false), {.dtype = DType::F16, .tokenizer = tokenizer.get()});
  EXPECT_EQ(file->strings("tokenizer.ggml.tokens").size(), 300U);  // one a row of the embedding
  EXPECT_EQ(file->integers("tokenizer.ggml.token_type")[299], 5);
  const auto back = tokenizer_from_gguf(*file);
  const std::string text = "In 1999 l'été, don't  stop\n\n\t\xf0\x9f\x99\x82<|endoftext|>[PAD299]";
  for (const bool special : {false, true}) EXPECT_EQ(back->encode(text, special), tokenizer->encode(text, special));
  EXPECT_EQ(back->decode(back->encode(text)), text);
  EXPECT_EQ(back->eos_id(), 256);
  EXPECT_EQ(back->end_of_text_id(), 256);
}

/// All bytes, "ab" and two tokens that are found in the text.
BpeDescription small_bpe(const char* pre) {
  const PretokenizerRules& rules = pretokenizer_rules(pre, "test");
  BpeDescription d;
  for (int byte = 0; byte < 256; ++byte) d.tokens.push_back(alphabet_of_bytes(std::string(1, static_cast<char>(byte))));
  d.tokens.insert(d.tokens.end(), {"ab", "<|endoftext|>", "<|user|>"});
  d.merges = {"a b"};
  d.added = {{.id = 257, .special = true}, {.id = 258}};
  d.pretokenizer = rules.stages;
  d.ignore_merges = rules.ignore_merges;
  if (rules.is_nfc) d.normalizer = {NormalizerStep{}};
  d.eos = 257;
  return d;
}

TEST_F(GgufExportTest, ATokenizersRulesGoOutByName) {
  const MadeModel made(config_of(false));
  const std::string text = "Tab  1234 e\u0301\n\n<|user|>ab<|endoftext|>";
  for (const char* pre : {"smollm", "gpt-2", "llama-bpe", "qwen2", "deepseek-v3"}) {
    BpeDescription d = small_bpe(pre);
    if (d.ignore_merges) d.start_of_text = 257;
    d.tokens[30].clear();  // a gap
    const BpeTokenizer tokenizer(d, "test");
    const auto file = written(made, config_of(false), {.dtype = DType::F16, .tokenizer = &tokenizer});
    EXPECT_EQ(file->text("tokenizer.ggml.pre"), pre);
    EXPECT_EQ(file->boolean("tokenizer.ggml.add_bos_token"), d.start_of_text.has_value());
    EXPECT_EQ(file->strings("tokenizer.ggml.tokens")[30], "[PAD30]");
    EXPECT_EQ(file->integers("tokenizer.ggml.token_type")[30], 5);
    const auto back = tokenizer_from_gguf(*file);
    for (const bool special : {false, true})
      EXPECT_EQ(back->encode(text, special), tokenizer.encode(text, special, nullptr)) << pre;
    EXPECT_EQ(back->start_of_text_id(), d.start_of_text);
  }
}

TEST_F(GgufExportTest, ATokenizerThatLlamaCppDoesNotKnowIsRefused) {
  const MadeModel made(config_of(false));
  const auto refusal = [&](auto change) {
    BpeDescription d = small_bpe("gpt-2");
    change(d);
    const BpeTokenizer tokenizer(d, "test");
    return error_of([&] { export_gguf(made, config_of(false), path(), {.tokenizer = &tokenizer}); });
  };
  EXPECT_EQ(refusal([](BpeDescription&) {}), "");
  EXPECT_THAT(refusal([](auto& d) { d.pretokenizer[0].invert = true; }), HasSubstr("pre-tokenizer is not one"));
  EXPECT_THAT(refusal([](auto& d) { d.pretokenizer.clear(); }), HasSubstr("pre-tokenizer is not one"));
  EXPECT_EQ(refusal([](auto& d) { d.ignore_merges = true; }), "");  // all tokens are what merges make
  EXPECT_THAT(refusal([](auto& d) {
                d.ignore_merges = true;
                d.merges.clear();
              }),
              HasSubstr("pre-tokenizer is not one"));
  EXPECT_THAT(refusal([](auto& d) {
                d.normalizer = {NormalizerStep{}};
                d.pretokenizer = pretokenizer_rules("tekken", "test").stages;
              }),
              HasSubstr("pre-tokenizer is not one"));
  EXPECT_THAT(refusal([](auto& d) { d.normalizer = {{.form = UnicodeForm::Nfkd}}; }), HasSubstr("normalizer"));
  EXPECT_THAT(refusal([](auto& d) { d.added[1].rstrip = true; }), HasSubstr("token <|user|> takes the white space"));
  EXPECT_THAT(refusal([](auto& d) { d.added[0].single_word = true; }), HasSubstr("token <|endoftext|>"));
  EXPECT_EQ(refusal([](auto& d) { d.unk = 257; }), "");
  EXPECT_THAT(refusal([](auto& d) {
                d.unk = 257;
                d.tokens[30].clear();
              }),
              HasSubstr("token <|endoftext|> stands for bytes without a token"));
}

TEST_F(GgufExportTest, TheTeachersTokenizerComesBack) {
  const auto teacher = testing::teacher_file();
  if (!teacher) GTEST_SKIP() << testing::no_teacher;
  const GgufFile source(*teacher);
  auto config = config_of(true);
  config.vocabulary = 49152;
  const MadeModel made(config);
  const auto tokenizer = tokenizer_from_gguf(source);
  const auto file = written(made, config, {.dtype = DType::Q8_0, .tokenizer = tokenizer.get()});
  for (const auto& [key, value] : source.metadata())
    EXPECT_TRUE(!key.starts_with("tokenizer.") || !file->has(key) || file->metadata().at(key) == value) << key;
  for (const char* key : {"tokens", "token_type", "merges", "pre", "model", "eos_token_id", "bos_token_id"})
    EXPECT_TRUE(file->has(std::string("tokenizer.ggml.") + key)) << key;
  EXPECT_EQ(tokenizer_from_gguf(*file)->to_json(), tokenizer->to_json());
}

// bpe.gguf is what llama.cpp's converter makes of bpe.model; its ids are in the tokenizer's own test.
TEST_F(GgufExportTest, ASentencePieceTokenizerComesBack) {
  const auto reference = GgufFile(golden_path("sentencepiece/bpe.gguf"));
  auto config = config_of(true);
  config.vocabulary = static_cast<std::int64_t>(reference.strings("tokenizer.ggml.tokens").size());
  const auto from_model = sentencepiece_from_file(golden_path("sentencepiece/bpe.model"));
  for (const auto& tokenizer : {from_model, tokenizer_from_gguf(reference)}) {
    const auto file = written(MadeModel(config), config, {.dtype = DType::F16, .tokenizer = tokenizer.get()});
    for (const char* name :
         {"model", "pre", "tokens", "scores", "token_type", "bos_token_id", "eos_token_id", "unknown_token_id"}) {
      const std::string key = std::string("tokenizer.ggml.") + name;
      EXPECT_TRUE(file->metadata().at(key) == reference.metadata().at(key)) << key;
    }
    EXPECT_EQ(tokenizer_from_gguf(*file)->to_json(), tokenizer_from_gguf(reference)->to_json());
  }
  config.vocabulary += 3;
  const auto file = written(MadeModel(config), config, {.dtype = DType::F16, .tokenizer = from_model.get()});
  EXPECT_EQ(file->strings("tokenizer.ggml.tokens").size(), static_cast<std::size_t>(config.vocabulary));
  EXPECT_EQ(tokenizer_from_gguf(*file)->vocabulary_size(), from_model->vocabulary_size());  // the rest fills up
  const std::string text = "The state of 1999  is [PAD] \xf0\x9f\x99\x82<s>";
  EXPECT_EQ(tokenizer_from_gguf(*file)->encode(text), from_model->encode(text));

  const auto unigram = sentencepiece_from_file(golden_path("sentencepiece/unigram.model"));
  config.vocabulary = unigram->vocabulary_size();
  EXPECT_THAT(error_of([&] { export_gguf(MadeModel(config), config, path(), {.tokenizer = unigram.get()}); }),
              HasSubstr("SentencePiece unigram without byte fallback, expected BPE with byte fallback"));
}

/// A SentencePiece BPE model as transformers' converter puts it into a tokenizer.json: for each piece, in the order of
/// scores, a merge of every two pieces that make it.
BpeDescription as_bpe(const SentencePieceDescription& from) {
  BpeDescription d;
  d.byte_fallback = true;
  d.fuse_unk = true;
  d.eos = from.eos;
  d.bos = d.start_of_text = from.bos;
  d.normalizer = {{.kind = NormalizerStep::Kind::Prepend, .content = "\u2581"},
                  {.kind = NormalizerStep::Kind::Replace, .pattern = literal_pattern(" "), .content = "\u2581"}};
  std::map<std::string, std::int32_t> ids;
  std::vector<const SentencePieceModel::Piece*> by_score;
  for (const auto& piece : from.model.pieces) {
    const auto id = static_cast<std::int32_t>(d.tokens.size());
    ids[piece.text] = id;
    d.tokens.push_back(piece.text);
    if (piece.type == SentencePieceModel::Type::Normal) by_score.push_back(&piece);
    if (piece.type == SentencePieceModel::Type::Control || piece.type == SentencePieceModel::Type::Unknown)
      d.added.push_back({.id = id, .special = true});
    if (piece.type == SentencePieceModel::Type::UserDefined) d.added.push_back({.id = id});
  }
  std::stable_sort(by_score.begin(), by_score.end(), [](const auto* a, const auto* b) { return a->score > b->score; });
  for (const auto* piece : by_score) {
    std::vector<std::pair<std::int32_t, std::int32_t>> parts;
    for (std::size_t at = 1; at < piece->text.size(); ++at) {
      const auto left = ids.find(piece->text.substr(0, at)), right = ids.find(piece->text.substr(at));
      if (left != ids.end() && right != ids.end()) parts.emplace_back(left->second, right->second);
    }
    std::sort(parts.begin(), parts.end());
    for (const auto& [left, right] : parts) d.merges.push_back(d.tokens[left] + " " + d.tokens[right]);
  }
  return d;
}

TEST_F(GgufExportTest, ByteFallbackIsWrittenAsSentencePiece) {
  const auto reference = GgufFile(golden_path("sentencepiece/bpe.gguf"));
  const auto of_reference = tokenizer_from_gguf(reference);
  const auto& description = dynamic_cast<const SentencePieceTokenizer&>(*of_reference).description();
  const BpeTokenizer tokenizer(as_bpe(description), "made");
  auto config = config_of(true);
  config.vocabulary = tokenizer.vocabulary_size();
  const auto file = written(MadeModel(config), config, {.dtype = DType::F16, .tokenizer = &tokenizer});
  for (const char* key : {"tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.bos_token_id",
                          "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_bos_token"})
    EXPECT_TRUE(file->metadata().at(key) == reference.metadata().at(key)) << key;
  const auto back = tokenizer_from_gguf(*file);
  for (const auto& line : testing::golden_lines("sentencepiece/strings.jsonl.gz")) {
    const std::string text = testing::from_hex(line["text"]);
    ASSERT_EQ(back->encode(text), of_reference->encode(text)) << line;
  }

  BpeDescription less = as_bpe(description);
  less.merges.erase(less.merges.begin());
  const BpeTokenizer other(less, "made");
  EXPECT_THAT(error_of([&] { (void)other.to_gguf(config.vocabulary); }),
              HasSubstr("are not merged, which llama.cpp would do"));
  less = as_bpe(description);
  less.ignore_merges = true;
  const BpeTokenizer whole(less, "made");
  EXPECT_THAT(error_of([&] { (void)whole.to_gguf(config.vocabulary); }), HasSubstr("which llama.cpp would not do"));
}

}  // namespace
}  // namespace limbeck::data
