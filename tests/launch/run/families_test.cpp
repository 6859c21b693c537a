// Models of families that people have, as transformers saved them, against what transformers computes in float64
// (tests/golden/make_families.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/nn/generation.h"
#include "core/nn/student/student_init.h"
#include "core/ops/head_loss.h"
#include "data/files/hdf5_file.h"
#include "data/models/families/family.h"
#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;
using data::HuggingFaceModel;

class Reference {
 public:
  explicit Reference(const std::string& family)
      : folder_(testing::golden_folder() / "families" / family),
        file_(data::Hdf5File::open((folder_ / "reference.h5").string())) {}

  const fs::path& folder() const { return folder_; }
  std::vector<double> values(const std::string& path) const {
    const core::Shape shape = file_.dataset_info(path).shape;
    std::vector<double> result(static_cast<std::size_t>(shape.numel()));
    file_.read(path, DType::F64, result.data(), std::vector<std::int64_t>(static_cast<std::size_t>(shape.rank()), 0),
               shape);
    return result;
  }
  data::TokenBatch samples() const {
    const auto column = [&](const char* path) {
      const std::vector<double> v = values(path);
      return std::vector<std::int32_t>(v.begin(), v.end());
    };
    const core::Shape shape = file_.dataset_info("/tokens").shape;
    return {shape[0], shape[1], column("/tokens"), column("/targets"), column("/positions"), column("/documents")};
  }
  /// By our names: the file has them in the order of the weights.
  std::map<std::string, std::vector<double>> gradients() const {
    const testing::TemporaryFolder folder;
    fs::copy_file(folder_ / "config.json", folder / "config.json");
    const std::string weights = testing::read_file(folder_ / "model.safetensors");
    std::uint64_t header = 0;
    std::memcpy(&header, weights.data(), sizeof header);
    const std::vector<double> values = this->values("/gradients");
    const std::vector<float> narrow(values.begin(), values.end());
    testing::write_file(
        folder / "model.safetensors",
        weights.substr(0, 8 + header) + std::string(reinterpret_cast<const char*>(narrow.data()), 4 * narrow.size()));
    const HuggingFaceModel model(folder.path());
    std::map<std::string, std::vector<double>> all;
    for (const auto& [name, info] : model.tensors()) {
      core::StateEntry entry = core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F64, info.shape));
      model.read(name, entry);
      all[name] = testing::values_of(entry.tensor);
    }
    return all;
  }

 private:
  fs::path folder_;
  data::Hdf5File file_;
};

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double x : values) result = std::max(result, std::abs(x));
  return result;
}

void expect_near(const std::vector<double>& values, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(values.size(), expected.size());
  const double allowed = tolerance * largest(expected);
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], expected[i], allowed) << i;
}

/// Of all tokens of the samples, packed as they are.
std::vector<double> logits_of(const core::StateReader& source, const nn::ModelConfig& config,
                              const data::TokenBatch& samples, DType dtype, bool as_kept = false) {
  const auto memory = core::Memory::cpu(2);
  nn::Transformer model(config, {.memory = memory, .dtype = dtype, .frozen = true, .as_kept = as_kept});
  model.load(source);
  core::Tape off(core::Tape::Mode::Off);
  const nn::Batch batch = launch::make_batch(memory, samples, 0, samples.num_sequences);
  const Tensor hidden = model.forward(off, model.pass(batch)).hidden.value;
  return testing::values_of(core::logits_of(hidden, model.head().value, model.head_bias().value));
}

/// The tokens of one document, as a batch of one row.
data::TokenBatch document_of(const std::vector<std::int32_t>& tokens) {
  data::TokenBatch samples{1, std::ssize(tokens), tokens, std::vector<std::int32_t>(tokens.size(), -1), {}, {}};
  for (std::size_t i = 0; i < tokens.size(); ++i) samples.positions.push_back(static_cast<std::int32_t>(i));
  samples.documents.resize(tokens.size());
  return samples;
}

/// The values of a tensor of a safetensors file, row by row; transposed, column by column.
std::vector<float> stored_values(const data::SafetensorsFile& file, const std::string& name, bool transposed) {
  const data::SafetensorsEntry& entry = file.tensors().at(name);
  std::vector<float> values(static_cast<std::size_t>(entry.shape.numel()));
  data::SafetensorsFile::read(entry, 0, entry.shape.numel(), DType::F32, reinterpret_cast<std::byte*>(values.data()));
  if (!transposed) return values;
  std::vector<float> turned;
  for (std::int64_t c = 0; c < entry.shape[1]; ++c)
    for (std::int64_t r = 0; r < entry.shape[0]; ++r)
      turned.push_back(values[static_cast<std::size_t>(r * entry.shape[1] + c)]);
  return turned;
}

class Families : public ::testing::TestWithParam<const char*> {
 protected:
  const Reference reference{GetParam()};
};

TEST_P(Families, LogitsAreThoseOfTransformers) {
  const HuggingFaceModel model(reference.folder());
  const std::vector<double> expected = reference.values("/logits");
  const data::TokenBatch samples = reference.samples();
  expect_near(logits_of(model, model.model_config(), samples, DType::F32), expected, 1e-5);
  expect_near(logits_of(model, model.model_config(), samples, DType::F64), expected, 2e-7);  // stored in float32
}

// The same model, as transformers 4 writes its config.
TEST_P(Families, ConfigsOfVersion4AreTheSame) {
  if (!fs::exists(reference.folder() / "config_v4.json")) GTEST_SKIP() << "version 4 writes it as 5 does";
  const testing::TemporaryFolder folder;
  fs::copy_file(reference.folder() / "config_v4.json", folder / "config.json");
  fs::copy_file(reference.folder() / "model.safetensors", folder / "model.safetensors");
  EXPECT_EQ(HuggingFaceModel(folder.path()).model_config(), HuggingFaceModel(reference.folder()).model_config());
}

TEST_P(Families, GradientsAreThoseOfTransformersUnderAnyLayout) {
  const HuggingFaceModel source(reference.folder());
  const nn::ModelConfig config = source.model_config();
  const std::map<std::string, std::vector<double>> expected = reference.gradients();
  const double loss = reference.values("/loss").at(0);
  std::vector<std::pair<const char*, int>> layouts = {{"dp1", 1}, {"dp2", 2}, {"tp2", 2}};
  if (config.moe.num_experts > 0) layouts.insert(layouts.end(), {{"ep2", 2}, {"tp2ep2", 4}});
  for (const auto& [layout, ranks] : layouts)
    for (const DType dtype : {DType::F32, DType::F64}) {
      SCOPED_TRACE(fmt::format("{} {}", layout, core::name_of(dtype)));
      testing::run_ranks(ranks, [&, layout = layout](testing::RankWorld& world) {
        launch::Rank rank(world.comm, layout, 1, /*sequence_parallel=*/ranks == 2);
        nn::Transformer model(config, rank.sharded(dtype));
        model.load(source);
        parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), dtype);
        const optim::LanguageModelling objective;
        const launch::StepResult result =
            launch::forward_backward(rank, {model, nullptr, objective}, reference.samples(), {}, sync);
        EXPECT_NEAR(result.loss(), loss, (dtype == DType::F32 ? 1e-5 : 1e-12) * loss);
        EXPECT_LE(testing::worst_gradient_error(model.parameters(), expected), dtype == DType::F32 ? 1e-4 : 1e-6);
      });
    }
}

// From the cache, a token at a time, the text goes on as by passes over all of it.
TEST_P(Families, DecodeAsTheyRead) {
  const HuggingFaceModel source(reference.folder());
  const nn::ModelConfig config = source.model_config();
  const auto memory = core::Memory::cpu(1);
  nn::Transformer model(config, {.memory = memory, .dtype = DType::F32, .frozen = true});
  model.load(source);
  std::vector<std::int32_t> text = {5, 9, 31, 7};
  const std::vector<std::int32_t> decoded = nn::generate(model, text, {.max_tokens = 20});
  for (const std::int32_t token : decoded) {
    const std::vector<double> logits = logits_of(source, config, document_of(text), DType::F32);
    const auto last = logits.end() - config.vocabulary;
    EXPECT_EQ(token, std::max_element(last, logits.end()) - last);
    text.push_back(token);
  }
  EXPECT_EQ(decoded.size(), 20U);
}

// Their values are such that bfloat16 holds them.
TEST_P(Families, ComeBackBitForBit) {
  const HuggingFaceModel model(reference.folder());
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const testing::TemporaryFolder folder;
    data::export_hugging_face(model, model.model_config(), folder / "out", {.dtype = dtype});
    const HuggingFaceModel again(folder / "out");
    EXPECT_EQ(again.model_config(), model.model_config());
    const data::SafetensorsFile before(reference.folder() / "model.safetensors"),
        after(folder / "out" / "model.safetensors");
    ASSERT_EQ(after.tensors().size(), before.tensors().size());
    for (const auto& [name, entry] : before.tensors()) {
      ASSERT_TRUE(after.tensors().contains(name)) << name;
      ASSERT_EQ(after.tensors().at(name).shape, entry.shape) << name;
      EXPECT_EQ(stored_values(after, name, false), stored_values(before, name, false)) << name;
    }
  }
}

// GGUF says less than config.json; what it can say it says whole. Of Llama 3's scaling a file has factors alone, which
// are read where they are those of Llama 3.1.
TEST_P(Families, ComeBackFromGguf) {
  const HuggingFaceModel model(reference.folder());
  nn::ModelConfig config = model.model_config();
  std::vector<double> expected = reference.values("/logits");
  if (config.rope_scaling.kind == nn::RopeScaling::Kind::Llama3) {
    config.rope_base = 500000;
    config.rope_scaling = {.kind = nn::RopeScaling::Kind::Llama3, .factor = 8, .original_positions = 8192};
    expected = logits_of(model, config, reference.samples(), DType::F64);
  }
  const testing::TemporaryFolder folder;
  const auto beyond = data::beyond_all_families(config, data::beyond_gguf);
  const auto write = [&] { data::export_gguf(model, config, folder / "m.gguf", {.dtype = DType::F32}); };
  if (beyond) {
    EXPECT_THAT(write, ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr(*beyond)));
    return;
  }
  write();
  const data::GgufModel again(std::make_shared<data::GgufFile>((folder / "m.gguf").string()));
  EXPECT_EQ(again.model_config().rope_scaling.kind, config.rope_scaling.kind);
  EXPECT_EQ(again.model_config().rope_scaling.factor, config.rope_scaling.factor);
  for (const bool as_kept : {false, true})
    expect_near(logits_of(again, again.model_config(), reference.samples(), DType::F32, as_kept), expected, 1e-5);
}

/// Dense families, from whose teachers students are cut.
class DenseFamilies : public Families {};

// A student without a layer is its teacher with that layer giving nothing.
TEST_P(DenseFamilies, ALayerLeftOutIsOneThatGivesNothing) {
  const HuggingFaceModel teacher(reference.folder());
  const nn::ModelConfig config = teacher.model_config();
  const nn::LayerSkip skipped(teacher, config.num_layers, {0, 2});
  const std::vector<double> student =
      logits_of(skipped, nn::skip_layers(config, {0, 2}), reference.samples(), DType::F64);
  const auto memory = core::Memory::cpu(1);
  nn::Transformer model(config, {.memory = memory, .dtype = DType::F64, .frozen = true});
  model.load(teacher);
  for (core::Parameter* p : model.parameters())
    for (const char* part : {"attention.o.", "mlp.down."})
      if (p->name.starts_with("layers.1." + std::string(part))) p->value.fill_zero();
  core::Tape off(core::Tape::Mode::Off);
  const nn::Batch batch = launch::make_batch(memory, reference.samples(), 0, reference.samples().num_sequences);
  const Tensor hidden = model.forward(off, model.pass(batch)).hidden.value;
  const Tensor logits = core::logits_of(hidden, model.head().value, model.head_bias().value);
  expect_near(student, testing::values_of(logits), 1e-12);
}

// Experts that are slices of the feed-forward give what it gave; where there is no gate there are none.
TEST_P(DenseFamilies, UpcycledTheyAreWhatTheyWereOrAreRefused) {
  const HuggingFaceModel teacher(reference.folder());
  const nn::ModelConfig config = teacher.model_config();
  const auto upcycled = [&] {
    return nn::Upcycled(teacher, config, {.slices = 2, .experts = 4, .experts_per_token = 2}, true, 1);
  };
  if (!config.mlp_gate) {
    EXPECT_THAT(upcycled, ::testing::ThrowsMessage<core::UsageError>(::testing::HasSubstr("have no gate")));
    return;
  }
  const nn::Upcycled student = upcycled();
  ASSERT_TRUE(student.is_exact());
  expect_near(logits_of(student, student.model_config(), reference.samples(), DType::F64), reference.values("/logits"),
              2e-7);
}

INSTANTIATE_TEST_SUITE_P(OfPeople, DenseFamilies,
                         ::testing::Values("llama", "llama_tied", "mistral", "qwen2", "qwen3", "olmo2", "gemma3",
                                           "phi3", "phi4_mini", "gpt2"),
                         [](const auto& test) { return std::string(test.param); });

/// Families whose short documents have other frequencies than their long ones.
class LongRope : public Families {};

TEST_P(LongRope, AShortDocumentHasTheShortFactors) {
  const HuggingFaceModel model(reference.folder());
  const std::vector<double> tokens = reference.values("/short/tokens"), expected = reference.values("/short/logits");
  const data::TokenBatch alone = document_of({tokens.begin(), tokens.end()});
  expect_near(logits_of(model, model.model_config(), alone, DType::F32), expected, 1e-5);
  expect_near(logits_of(model, model.model_config(), alone, DType::F64), expected, 2e-7);
  // In a row with a long one before it, each has its own.
  data::TokenBatch packed = document_of({5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
  const std::vector<double> first = logits_of(model, model.model_config(), packed, DType::F64);
  for (std::int64_t i = 0; i < alone.sequence_length; ++i) {
    const auto at = static_cast<std::size_t>(i);
    packed.tokens.push_back(alone.tokens[at]);
    packed.targets.push_back(-1);
    packed.positions.push_back(alone.positions[at]);
    packed.documents.push_back(1);
  }
  packed.sequence_length += alone.sequence_length;
  const std::vector<double> both = logits_of(model, model.model_config(), packed, DType::F64);
  const auto begin = both.begin() + std::ssize(first);
  expect_near({both.begin(), begin}, first, 1e-12);
  expect_near({begin, both.end()}, expected, 2e-7);
}

INSTANTIATE_TEST_SUITE_P(OfPeople, LongRope, ::testing::Values("phi3", "phi4_mini", "phimoe"),
                         [](const auto& test) { return std::string(test.param); });

void expect_gguf_holds(const std::string& family, const std::map<std::string, std::string>& names, bool transposed) {
  const Reference reference(family);
  const HuggingFaceModel model(reference.folder());
  const testing::TemporaryFolder folder;
  data::export_gguf(model, model.model_config(), folder / "m.gguf", {.dtype = DType::F32});
  const data::GgufFile gguf((folder / "m.gguf").string());
  const data::SafetensorsFile stored(reference.folder() / "model.safetensors");
  for (const auto& [ours, theirs] : names) {
    if (theirs.empty()) continue;  // of GGUF alone
    const data::GgufTensor& tensor = gguf.tensors().at(ours);
    const auto expected = stored_values(
        stored, theirs, transposed && tensor.shape.rank() == 2 && theirs.find(".h.") != std::string::npos);
    std::vector<float> values(expected.size());
    ASSERT_EQ(tensor.shape.numel(), std::ssize(expected)) << ours;
    gguf.read(tensor, 0, tensor.shape.numel(), values.data());
    EXPECT_EQ(values, expected) << ours;
  }
  EXPECT_EQ(gguf.tensors().size(), names.size()) << "no other tensors";
}

// Where llama.cpp's converter puts what transformers has: fused tensors as they are, Conv1D's turned.
TEST(FamiliesInGguf, Phi3HasItsTensorsAsTheyAre) {
  std::map<std::string, std::string> names = {{"token_embd.weight", "model.embed_tokens.weight"},
                                              {"output_norm.weight", "model.norm.weight"},
                                              {"output.weight", "lm_head.weight"}};
  for (const std::string n : {"0", "1", "2"}) {
    const std::string ours = "blk." + n + ".", theirs = "model.layers." + n + ".";
    names[ours + "attn_norm.weight"] = theirs + "input_layernorm.weight";
    names[ours + "attn_qkv.weight"] = theirs + "self_attn.qkv_proj.weight";
    names[ours + "attn_output.weight"] = theirs + "self_attn.o_proj.weight";
    names[ours + "ffn_norm.weight"] = theirs + "post_attention_layernorm.weight";
    names[ours + "ffn_up.weight"] = theirs + "mlp.gate_up_proj.weight";
    names[ours + "ffn_down.weight"] = theirs + "mlp.down_proj.weight";
  }
  const Reference reference("phi3");
  const HuggingFaceModel model(reference.folder());
  const testing::TemporaryFolder folder;
  data::export_gguf(model, model.model_config(), folder / "m.gguf", {.dtype = DType::F32});
  const data::GgufFile gguf((folder / "m.gguf").string());
  const auto factors = [&](const char* name) {
    std::vector<float> values(3);
    gguf.read(gguf.tensors().at(name), 0, 3, values.data());
    return values;
  };
  EXPECT_EQ(factors("rope_factors_short.weight"), (std::vector<float>{1, 1.1F, 1.4F}));
  EXPECT_EQ(factors("rope_factors_long.weight"), (std::vector<float>{1.2F, 2.1F, 3.7F}));
  EXPECT_EQ(gguf.integer("phi3.rope.scaling.original_context_length"), 10);
  EXPECT_EQ(gguf.integer("phi3.attention.sliding_window"), 7);
  EXPECT_NEAR(gguf.number("phi3.rope.scaling.attn_factor"), std::sqrt(1 + std::log(4.0) / std::log(10.0)), 1e-6);
  names["rope_factors_long.weight"] = names["rope_factors_short.weight"] = "";
  expect_gguf_holds("phi3", names, false);
}

TEST(FamiliesInGguf, Gpt2HasItsMatricesTurned) {
  std::map<std::string, std::string> names = {{"token_embd.weight", "transformer.wte.weight"},
                                              {"position_embd.weight", "transformer.wpe.weight"}};
  const auto both = [&](const std::string& ours, const std::string& theirs) {
    for (const char* kind : {".weight", ".bias"}) names[ours + kind] = theirs + kind;
  };
  both("output_norm", "transformer.ln_f");
  for (const std::string n : {"0", "1", "2"}) {
    const std::string ours = "blk." + n + ".", theirs = "transformer.h." + n + ".";
    both(ours + "attn_norm", theirs + "ln_1");
    both(ours + "attn_qkv", theirs + "attn.c_attn");
    both(ours + "attn_output", theirs + "attn.c_proj");
    both(ours + "ffn_norm", theirs + "ln_2");
    both(ours + "ffn_up", theirs + "mlp.c_fc");
    both(ours + "ffn_down", theirs + "mlp.c_proj");
  }
  expect_gguf_holds("gpt2", names, true);
}

// What a config.json of Phi-3 may say wrongly is told by its field.
TEST(Phi3, AConfigThatCannotBeMeantIsRefused) {
  const Reference reference("phi4_mini");
  const std::string config = testing::read_file(reference.folder() / "config_v4.json");
  const testing::TemporaryFolder folder;
  fs::copy_file(reference.folder() / "model.safetensors", folder / "model.safetensors");
  const auto expect_refusal = [&](const std::string& what, const std::string& by, const char* message) {
    std::string other = config;
    const std::size_t at = other.find(what);
    ASSERT_NE(at, std::string::npos) << what;
    testing::write_file(folder / "config.json", other.replace(at, what.size(), by));
    EXPECT_THAT([&] { HuggingFaceModel{folder.path()}; },
                ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr(message)));
  };
  expect_refusal("0.75", "1.5", "partial_rotary_factor is 1.5, expected above 0 to 1");
  expect_refusal("0.75", "0.1", "nothing of a head of 6 turns");
  expect_refusal("0.75", "0.6", "rotary_width is 3, expected an even number");
  expect_refusal("0.75", "1.0", "short_factors are 2, expected half of the 6 channels that turn");
  expect_refusal("2.9", "-2.9", "long_factors is -2.9, expected a positive number");
  expect_refusal("\"longrope\"", "\"dynamic\"", "type is \"dynamic\", which is not supported");
  expect_refusal("\"long_factor\"", "\"factors\"", "long_factor is absent, expected a list of numbers");
  expect_refusal("embeddings\": 10", "embeddings\": 0", "original_max_position_embeddings is 0");
  expect_refusal("silu", "gelu", "hidden_act is \"gelu\"");
}

/// A source whose tied head is there once more.
class WithHead final : public core::StateReader {
 public:
  explicit WithHead(const core::StateReader& source) : source_(source), tensors_(source.tensors()) {
    tensors_["head.weight"] = tensors_.at("embed.weight");
  }
  std::string source() const override { return source_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo&, core::StateEntry& entry) const override {
    source_.read(name == "head.weight" ? "embed.weight" : name, entry);
  }
  const core::StateReader& source_;
  std::map<std::string, core::StateInfo> tensors_;
};

// As converters have written GPT-2: the head is the embedding, and in the file all the same.
TEST(FamiliesInGguf, AHeadThatIsTheEmbeddingOnceMoreIsTied) {
  const Reference reference("gpt2");
  const HuggingFaceModel model(reference.folder());
  nn::ModelConfig config = model.model_config();
  config.tied_head = false;
  const testing::TemporaryFolder folder;
  data::export_gguf(WithHead(model), config, folder / "m.gguf", {.dtype = DType::F32});
  const auto file = std::make_shared<data::GgufFile>((folder / "m.gguf").string());
  ASSERT_TRUE(file->tensors().contains("output.weight"));
  const data::GgufModel again(file);
  EXPECT_TRUE(again.model_config().tied_head);
  EXPECT_FALSE(again.tensors().contains("head.weight"));
  expect_near(logits_of(again, again.model_config(), reference.samples(), DType::F32), reference.values("/logits"),
              1e-5);
}

// Its authors' own code has another name for the architecture, and adds noise in training.
TEST(PhiMoe, IsReadAsItsAuthorsSaveIt) {
  const Reference reference("phimoe");
  const testing::TemporaryFolder folder;
  std::string config = testing::read_file(reference.folder() / "config_v4.json");
  const auto replace = [&](const std::string& what, const std::string& by) {
    const std::size_t at = config.find(what);
    ASSERT_NE(at, std::string::npos) << what;
    config.replace(at, what.size(), by);
  };
  replace("PhimoeForCausalLM", "PhiMoEForCausalLM");
  replace("\"input_jitter_noise\": 0.0", "\"input_jitter_noise\": 0.01");
  testing::write_file(folder / "config.json", config);
  fs::copy_file(reference.folder() / "model.safetensors", folder / "model.safetensors");
  EXPECT_EQ(HuggingFaceModel(folder.path()).model_config(), HuggingFaceModel(reference.folder()).model_config());
  replace("\"lm_head_bias\": true", "\"lm_head_bias\": false");
  testing::write_file(folder / "config.json", config);
  EXPECT_THAT([&] { HuggingFaceModel{folder.path()}; },
              ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr("lm_head_bias is false")));
}

/// The golden GPT-2 with tensors renamed, and with more of them.
void write_gpt2(const fs::path& folder, const std::string& prefix, bool with_masks) {
  const Reference reference("gpt2");
  const data::SafetensorsFile stored(reference.folder() / "model.safetensors");
  std::vector<data::SafetensorsPlan> plan;
  const std::size_t root = std::string("transformer.").size();
  std::map<std::string, std::string> origin;
  for (const auto& [name, entry] : stored.tensors()) {
    plan.push_back({prefix + name.substr(root), DType::F32, entry.shape});
    origin[plan.back().name] = name;
  }
  if (with_masks)
    for (const char* name : {"h.0.attn.bias", "h.2.attn.masked_bias"})
      plan.push_back({prefix + name, DType::F32, {1, 1, 3, 3}});
  data::write_safetensors(folder, plan, 1 << 20, {{"format", "pt"}}, [&](const data::SafetensorsPlan& tensor) {
    Tensor value = Tensor::zeros(core::Memory::cpu(1), DType::F32, tensor.shape);
    if (const auto from = origin.find(tensor.name); from != origin.end()) {
      const std::vector<float> values = stored_values(stored, from->second, false);
      std::copy(values.begin(), values.end(), value.mutable_data<float>());
    }
    return value;
  });
  fs::copy_file(reference.folder() / "config.json", folder / "config.json");
}

TEST(Gpt2, IsReadWithoutItsRootAndWithItsMasks) {
  const Reference reference("gpt2");
  for (const char* prefix : {"transformer.", ""})
    for (const bool with_masks : {false, true}) {
      const testing::TemporaryFolder folder;
      write_gpt2(folder.path(), prefix, with_masks);
      const HuggingFaceModel model(folder.path());
      expect_near(logits_of(model, model.model_config(), reference.samples(), DType::F64), reference.values("/logits"),
                  2e-7);
    }
}

// A rank reads its rows and columns of what is stored the other way round, and of q, k and v as one.
TEST_P(Families, BoxesAreThoseOfTheWhole) {
  const HuggingFaceModel model(reference.folder());
  const auto memory = core::Memory::cpu(1);
  for (const auto& [name, info] : model.tensors()) {
    if (info.shape.rank() != 2) continue;
    core::StateEntry whole = core::StateEntry::whole(Tensor::zeros(memory, DType::F64, info.shape));
    model.read(name, whole);
    const std::int64_t rows = info.shape[0], columns = info.shape[1], r = rows / 3, c = columns / 3;
    core::StateEntry box{info.shape, {r, c}, Tensor::zeros(memory, DType::F64, {rows - r - 1, columns - c - 1}), true};
    if (box.tensor.numel() == 0) continue;
    model.read(name, box);
    for (std::int64_t i = 0; i < rows - r - 1; ++i)
      for (std::int64_t j = 0; j < columns - c - 1; ++j)
        ASSERT_EQ(box.tensor.data<double>()[i * (columns - c - 1) + j],
                  whole.tensor.data<double>()[(r + i) * columns + c + j])
            << name;
  }
}

INSTANTIATE_TEST_SUITE_P(OfPeople, Families,
                         ::testing::Values("llama", "llama_tied", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3",
                                           "qwen3_moe", "olmoe", "olmo2", "gemma3", "phi3", "phi4_mini", "phimoe",
                                           "gpt2"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace limbeck
