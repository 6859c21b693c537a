// Models of families that people have, as transformers saved them, against what transformers computes in float64
// (tests/golden/make_families.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
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
#include "data/models/hugging_face_config.h"
#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/support/family_reference.h"
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
using testing::FamilyReference;

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
  const FamilyReference reference{GetParam()};
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
  const bool by_two = config.moe.num_experts % 2 == 0;
  if (config.moe.num_experts > 0)
    layouts.insert(
        layouts.end(),
        {{by_two ? "ep2" : "ep3", by_two ? 2 : 3}, {"etp2", 2}, {by_two ? "tp2ep2" : "tp2ep3", by_two ? 4 : 6}});
  if (config.moe.expert_bias) layouts.emplace_back("ep2etp2", 4);
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
// are read where they are those of Llama 3.1. It knows no groups of experts that are chosen by their best.
TEST_P(Families, ComeBackFromGguf) {
  const HuggingFaceModel model(reference.folder());
  nn::ModelConfig config = model.model_config();
  std::vector<double> expected = reference.values("/logits");
  if (config.rope_scaling.kind == nn::RopeScaling::Kind::Llama3) {
    config.rope_base = 500000;
    config.rope_scaling = {.kind = nn::RopeScaling::Kind::Llama3, .factor = 8, .original_positions = 8192};
    expected = logits_of(model, config, reference.samples(), DType::F64);
  }
  if (config.is_latent() && config.moe.scores == nn::RouterScores::Softmax) {  // as V2-Lite: without groups, one mscale
    config.moe.num_groups = config.moe.groups_per_token = 1;
    config.rope_scaling.mscale = config.rope_scaling.mscale_all;
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
  EXPECT_EQ(again.model_config().latent.rank, config.latent.rank);
  if (config.is_latent()) {
    // Its numbers are float32.
    export_hugging_face(again, again.model_config(), folder / "back", {.dtype = DType::F32});
    expect_near(logits_of(HuggingFaceModel(folder / "back"), again.model_config(), reference.samples(), DType::F32),
                expected, 1e-5);
  }
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
  const FamilyReference reference(family);
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
  const FamilyReference reference("phi3");
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
  const FamilyReference reference("phi4_mini");
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
  const FamilyReference reference("gpt2");
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
  const FamilyReference reference("phimoe");
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
  const FamilyReference reference("gpt2");
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
  data::SafetensorsWriter writer(folder / "model.safetensors", plan, {{"format", "pt"}});
  for (const data::SafetensorsPlan& tensor : plan) {
    Tensor value = Tensor::zeros(core::Memory::cpu(1), DType::F32, tensor.shape);
    if (const auto from = origin.find(tensor.name); from != origin.end()) {
      const std::vector<float> values = stored_values(stored, from->second, false);
      std::copy(values.begin(), values.end(), value.mutable_data<float>());
    }
    writer.write(value);
  }
  writer.finish();
  fs::copy_file(reference.folder() / "config.json", folder / "config.json");
}

TEST(Gpt2, IsReadWithoutItsRootAndWithItsMasks) {
  const FamilyReference reference("gpt2");
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

// By how many tokens chose each expert, whatever the layout; the bias has no gradient.
TEST(DeepSeek, BiasesOfTheSelectionMoveByTheLoad) {
  const FamilyReference reference("deepseek_v3");
  const HuggingFaceModel source(reference.folder());
  const nn::ModelConfig config = source.model_config();
  std::map<std::string, std::vector<double>> expected;
  {
    const auto memory = core::Memory::cpu(1);
    nn::Transformer model(config, {.memory = memory, .dtype = DType::F64, .frozen = true});
    model.load(source);
    const data::TokenBatch samples = reference.samples();
    const nn::Batch batch = launch::make_batch(memory, samples, 0, samples.num_sequences);
    nn::RoutingLog log;
    nn::Pass pass = model.pass(batch);
    pass.routing = &log;
    core::Tape off(core::Tape::Mode::Off);
    model.forward(off, pass);
    for (const std::int64_t layer : {1, 2}) {
      const std::string moe = fmt::format("layers.{}.moe", layer);
      std::vector<double> load(9), bias = testing::values_of(model.parameter(moe + ".router.selection_bias").value);
      const auto chosen = core::host_values<std::int32_t>(*log.find(moe, batch.global_index));
      for (const std::int32_t e : chosen) ++load[static_cast<std::size_t>(e)];
      for (std::size_t e = 0; e < 9; ++e) {
        const double mean = static_cast<double>(chosen.size()) / 9;  // 192 of 9: none has it
        bias[e] += load[e] < mean ? 0.25 : -0.25;
      }
      expected[moe + ".router.selection_bias"] = bias;
    }
  }
  for (const auto& [layout, ranks] :
       {std::pair("dp1", 1), std::pair("dp2", 2), std::pair("tp2", 2), std::pair("tp2ep3", 6)})
    testing::run_ranks(ranks, [&, layout = layout](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout, 1, /*sequence_parallel=*/ranks == 2);
      nn::Transformer model(config, rank.sharded(DType::F32));
      model.load(source);
      parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), DType::F32);
      const optim::LanguageModelling objective;
      const launch::StepResult result =
          launch::forward_backward(rank, {model, nullptr, objective}, reference.samples(), {}, sync);
      model.move_selection_biases(result.expert_load, 0.25);
      for (const auto& [name, values] : expected) {
        const core::Parameter& bias = model.parameter(name);
        EXPECT_EQ(bias.slot, nullptr);
        EXPECT_EQ(model.state_dict().count(name), 1U);
        const std::vector<double> moved = testing::values_of(bias.value);
        ASSERT_EQ(moved.size(), values.size());
        for (std::size_t e = 0; e < values.size(); ++e) EXPECT_EQ(moved[e], values[e]) << layout << " " << name;
      }
    });
}

// The files of llama.cpp's converter, of today and as it once joined the matrices that widen keys and values.
TEST(DeepSeek, GgufIsReadInBothForms) {
  const FamilyReference reference("deepseek_v3");
  for (const char* name : {"deepseek_v3.gguf", "deepseek_v3_joined.gguf"}) {
    SCOPED_TRACE(name);
    const data::GgufModel model(std::make_shared<data::GgufFile>((testing::golden_folder() / "gguf" / name).string()));
    expect_near(logits_of(model, model.model_config(), reference.samples(), DType::F32), reference.values("/logits"),
                1e-5);
  }
}

// Layers that predict further tokens lie behind the others in a file.
TEST(DeepSeek, LayersBehindTheLastAreNotRead) {
  const FamilyReference reference("deepseek_v3");
  const testing::TemporaryFolder folder;
  auto json = nlohmann::json::parse(testing::read_file(reference.folder() / "config.json"));
  json["num_hidden_layers"] = 2;
  testing::write_file(folder.path() / "config.json", json.dump());
  fs::copy_file(reference.folder() / "model.safetensors", folder.path() / "model.safetensors");
  const HuggingFaceModel model(folder.path());
  EXPECT_EQ(model.tensors().count("layers.2.mlp_norm.weight"), 0U);
  ASSERT_EQ(model.notices().size(), 1U);
  EXPECT_THAT(model.notices()[0], ::testing::HasSubstr("tensors of layers from 2 on"));
}

// A student of some layers keeps latents, groups, biases and experts, and is a model of the family.
TEST(DeepSeek, LayersMayBeLeftOut) {
  for (const char* family : {"deepseek_v2", "deepseek_v3"}) {
    const FamilyReference reference(family);
    const HuggingFaceModel teacher(reference.folder());
    const nn::ModelConfig config = nn::skip_layers(teacher.model_config(), {0, 2});
    EXPECT_EQ(config.moe.dense_layers, (std::vector<std::int64_t>{0}));
    const nn::LayerSkip skipped(teacher, 3, {0, 2});
    // The same by names in a file.
    const testing::TemporaryFolder folder;
    data::export_hugging_face(skipped, config, folder / "out", {.dtype = DType::F32});
    const data::SafetensorsFile of_student(folder / "out" / "model.safetensors"),
        of_teacher(reference.folder() / "model.safetensors");
    std::int64_t compared = 0;
    for (const auto& [name, entry] : of_student.tensors()) {
      std::string theirs = name;
      if (name.starts_with("model.layers.1.")) theirs.replace(0, 15, "model.layers.2.");
      const data::SafetensorsEntry& other = of_teacher.tensors().at(theirs);
      ASSERT_EQ(entry.shape, other.shape) << name;
      EXPECT_EQ(std::memcmp(entry.data, other.data, static_cast<std::size_t>(4 * entry.shape.numel())), 0) << name;
      ++compared;
    }
    EXPECT_GT(compared, 30);
    EXPECT_EQ(HuggingFaceModel(folder / "out").model_config(), config);
    EXPECT_THAT([&] { nn::Upcycled(skipped, config, {.experts = 4, .experts_per_token = 2}, true, 1); },
                ::testing::ThrowsMessage<core::UsageError>(::testing::HasSubstr("has experts already")));
  }
}

TEST(DeepSeek, OtherModelsOfTheNameAreRefused) {
  const FamilyReference reference("deepseek_v3");
  const testing::TemporaryFolder folder;
  const auto original = nlohmann::json::parse(testing::read_file(reference.folder() / "config.json"));
  const auto refusal = [&](const char* patch) {
    auto json = original;
    json.merge_patch(nlohmann::json::parse(patch));
    testing::write_file(folder.path() / "config.json", json.dump());
    return testing::error_of([&] { data::read_hugging_face_config(folder.path()); });
  };
  EXPECT_EQ(refusal("{}"), "");
  for (const auto& [patch, what] : {std::pair(R"({"rope_interleave": false})", "rope_interleave is false"),
                                    std::pair(R"({"scoring_func": "softmax"})", "scoring_func is \"softmax\""),
                                    std::pair(R"({"attention_bias": true})", "attention_bias is true"),
                                    std::pair(R"({"moe_layer_freq": 2})", "moe_layer_freq is 2"),
                                    std::pair(R"({"first_k_dense_replace": 3})", "first_k_dense_replace is 3"),
                                    std::pair(R"({"n_shared_experts": null})", "n_shared_experts"),
                                    std::pair(R"({"n_group": 2})", "moe.num_groups is 2, expected a divisor"),
                                    std::pair(R"({"topk_group": 1})", "moe.experts_per_token is 4, expected at most 3"),
                                    std::pair(R"({"qk_rope_head_dim": 5})", "latent.rope_width is 5"),
                                    std::pair(R"({"num_key_value_heads": 1})", "num_kv_heads is 1")})
    EXPECT_THAT(refusal(patch), ::testing::HasSubstr(what));
}

// Blocks of 5 rows and 3 columns, which end nowhere with a head, a latent or a matrix (tests/golden/make_fp8.py).
TEST(DeepSeek, BlockScaledFp8IsReadAsItsProducts) {
  const fs::path folder = testing::golden_folder() / "fp8";
  const HuggingFaceModel model(folder / "deepseek_v3");
  const testing::TemporaryFolder plain;
  fs::copy_file(folder / "../families/deepseek_v3/config.json", plain / "config.json");
  fs::copy_file(folder / "dequantised.safetensors", plain / "model.safetensors");
  const HuggingFaceModel expected(plain.path());
  EXPECT_EQ(model.model_config(), expected.model_config());
  ASSERT_EQ(model.tensors().size(), expected.tensors().size());
  for (const auto& [name, info] : expected.tensors())
    for (const DType dtype : {DType::F32, DType::F64, DType::BF16}) {
      const auto read = [&](const HuggingFaceModel& from) {
        core::StateEntry entry = core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), dtype, info.shape));
        from.read(name, entry);
        return testing::values_of(dtype == DType::BF16 ? entry.tensor.to(DType::F32) : entry.tensor);
      };
      EXPECT_EQ(read(model), read(expected)) << name << " " << core::name_of(dtype);
    }
  // A box that begins and ends within blocks.
  core::StateEntry box{model.tensors().at("layers.1.attention.q_b.weight").shape,
                       {7, 4},
                       Tensor::zeros(core::Memory::cpu(1), DType::F32, {9, 5}),
                       true};
  core::StateEntry whole = core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F32, {30, 11}));
  model.read("layers.1.attention.q_b.weight", box);
  expected.read("layers.1.attention.q_b.weight", whole);
  for (std::int64_t i = 0; i < 9; ++i)
    for (std::int64_t j = 0; j < 5; ++j)
      EXPECT_EQ(box.tensor.data<float>()[i * 5 + j], whole.tensor.data<float>()[(7 + i) * 11 + 4 + j]);
}

TEST(DeepSeek, Fp8ThatIsNotWhatItSaysIsRefused) {
  const fs::path source = testing::golden_folder() / "fp8" / "deepseek_v3";
  const testing::TemporaryFolder folder;
  fs::copy_file(source / "model.safetensors", folder / "model.safetensors");
  const auto original = nlohmann::json::parse(testing::read_file(source / "config.json"));
  const auto refusal = [&](const char* patch) {
    auto json = original;
    json.merge_patch(nlohmann::json::parse(patch));
    testing::write_file(folder.path() / "config.json", json.dump());
    return testing::error_of([&] { HuggingFaceModel{folder.path()}; });
  };
  EXPECT_EQ(refusal("{}"), "");
  for (const auto& [patch, what] :
       {std::pair(R"({"quantization_config": {"quant_method": "quip"}})", "quant_method is \"quip\""),
        std::pair(R"({"quantization_config": {"fmt": "e5m2"}})", "fmt is \"e5m2\""),
        std::pair(R"({"quantization_config": {"weight_block_size": [5]}})", "weight_block_size is [5]"),
        std::pair(R"({"quantization_config": {"weight_block_size": [5, 0]}})", "weight_block_size is [5,0]"),
        std::pair(R"({"quantization_config": {"weight_block_size": [5, 4]}})", "_scale_inv has shape"),
        std::pair(R"({"quantization_config": null})", "float8 (e4m3)")})
    EXPECT_THAT(refusal(patch), ::testing::HasSubstr(what));
}

INSTANTIATE_TEST_SUITE_P(OfPeople, Families,
                         ::testing::Values("llama", "llama_tied", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3",
                                           "qwen3_moe", "olmoe", "olmo2", "gemma3", "phi3", "phi4_mini", "phimoe",
                                           "gpt2", "deepseek_v2", "deepseek_v3", "gpt_oss"),
                         [](const auto& test) { return std::string(test.param); });

data::TokenBatch one_text(const FamilyReference& reference) {
  const std::vector<double> tokens = reference.values("/tokens");
  data::TokenBatch batch{1, std::ssize(tokens), {tokens.begin(), tokens.end()}, {}, {}, {}};
  for (std::size_t i = 0; i < tokens.size(); ++i) batch.positions.push_back(static_cast<std::int32_t>(i));
  batch.targets.assign(tokens.size(), -1);
  batch.documents.resize(tokens.size());
  return batch;
}

/// Weights in other programs' formats (tests/golden/make_quantised.py).
class QuantisedTeachers : public ::testing::TestWithParam<const char*> {};

TEST_P(QuantisedTeachers, LogitsAreThoseOfTheDequantisedModel) {
  const FamilyReference reference("../quantised/" + std::string(GetParam()));
  const HuggingFaceModel model(reference.folder());
  const std::vector<double> logits = logits_of(model, model.model_config(), one_text(reference), DType::F32);
  expect_near(logits, reference.values("/logits"), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(By, QuantisedTeachers,
                         ::testing::Values("nf4", "nf4_double", "int8", "gptq", "gptq_order", "awq"),
                         [](const auto& test) { return std::string(test.param); });

/// A model whose experts are in MXFP4, as a directory and as GGUF (tests/golden/make_gpt_oss.py).
class GptOssInMxfp4 : public ::testing::TestWithParam<const char*> {
 protected:
  const FamilyReference reference{"../gpt_oss_mxfp4/" + std::string(GetParam())};
  const HuggingFaceModel folder{reference.folder()};
  const data::GgufModel gguf{std::make_shared<data::GgufFile>((reference.folder() / "model.gguf").string())};
};

TEST_P(GptOssInMxfp4, LogitsAreThoseOfTransformers) {
  const std::vector<double> expected = reference.values("/logits");
  nn::ModelConfig config = folder.model_config();
  EXPECT_FALSE(config.rope_scaling.truncates);
  for (const bool as_kept : {false, true}) {
    expect_near(logits_of(folder, config, one_text(reference), DType::F32, as_kept), expected, 1e-5);
    expect_near(logits_of(gguf, gguf.model_config(), one_text(reference), DType::F32, as_kept), expected, 1e-5);
  }
  expect_near(logits_of(folder, config, one_text(reference), DType::F64), expected, 2e-7);
  // GGUF has its numbers in float32.
  EXPECT_NEAR(gguf.model_config().norm_eps, config.norm_eps, 1e-12);
  EXPECT_NEAR(gguf.model_config().rope_scaling.beta_fast, config.rope_scaling.beta_fast, 1e-6);
  EXPECT_NEAR(gguf.model_config().rope_scaling.beta_slow, config.rope_scaling.beta_slow, 1e-6);
  config.norm_eps = gguf.model_config().norm_eps;
  config.rope_scaling.beta_fast = gguf.model_config().rope_scaling.beta_fast;
  config.rope_scaling.beta_slow = gguf.model_config().rope_scaling.beta_slow;
  EXPECT_EQ(gguf.model_config(), config);
}

// Experts stay in the blocks of the file, in both halves of an expert group too; the sum over the parts of each
// expert's width is of blocks as well.
TEST_P(GptOssInMxfp4, ExpertsStayQuantised) {
  const nn::ModelConfig config = folder.model_config();
  for (const core::StateReader* source : {static_cast<const core::StateReader*>(&folder), {&gguf}}) {
    nn::Transformer model(config, {.memory = core::Memory::cpu(1), .frozen = true, .as_kept = true});
    model.load(*source);
    for (const char* matrix : {"gate", "up", "down"})
      EXPECT_EQ(model.parameter(fmt::format("layers.1.moe.experts.{}", matrix)).value.dtype(), DType::MXFP4);
    EXPECT_EQ(model.parameter("layers.1.moe.experts.down_bias").value.dtype(), DType::F32);
  }
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "ep2", 1);
    nn::ModelOptions options = rank.sharded(DType::F32);
    options.frozen = options.as_kept = true;
    nn::Transformer model(config, options);
    model.load(folder);
    const core::Parameter& down = model.parameter("layers.1.moe.experts.down");
    EXPECT_EQ(down.value.dtype(), DType::MXFP4);
    EXPECT_EQ(down.value.shape()[0], 2);
    const std::vector<double> all = reference.values("/down_proj");  // [E,F,C]
    std::vector<float> values(static_cast<std::size_t>(down.value.numel()));
    kernels::expand({kernels::BlockFormat::MXFP4, down.value.host_raw()}, std::ssize(values) / 32, values.data());
    const std::int64_t width = config.width, own = config.moe.expert_width;
    for (std::int64_t e = 0; e < 2; ++e)
      for (std::int64_t c = 0; c < width; ++c)
        for (std::int64_t f = 0; f < own; ++f)
          ASSERT_EQ(values[(e * width + c) * own + f], all[((e + down.offset()[0]) * own + f) * width + c]);
  });
}

// Written as values, for what is read in blocks is written in --dtype.
TEST_P(GptOssInMxfp4, ComesBackFromGgufAndHuggingFace) {
  const testing::TemporaryFolder out;
  data::export_gguf(folder, folder.model_config(), out / "m.gguf", {.dtype = DType::F32});
  const data::GgufModel written(std::make_shared<data::GgufFile>((out / "m.gguf").string()));
  EXPECT_EQ(written.model_config(), gguf.model_config());
  data::export_hugging_face(gguf, folder.model_config(), out / "hf", {.dtype = DType::F32});
  const HuggingFaceModel directory(out / "hf");
  EXPECT_EQ(directory.model_config(), folder.model_config());
  for (const auto& [name, info] : folder.tensors())
    for (const core::StateReader* source : {static_cast<const core::StateReader*>(&written), {&directory}}) {
      const auto values = [&](const core::StateReader& from) {
        core::StateEntry entry = core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F32, info.shape));
        from.read(name, entry);
        return testing::values_of(entry.tensor.to(DType::F64));
      };
      EXPECT_EQ(values(*source), values(folder)) << name;
    }
}

INSTANTIATE_TEST_SUITE_P(Of, GptOssInMxfp4, ::testing::Values("gate", "down"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace limbeck
