// Models of families that people have, as transformers saved them, against what transformers computes in float64
// (tests/golden/make_families.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/nn/generation.h"
#include "core/nn/student/student_init.h"
#include "data/models/families/family.h"
#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/support/family_reference.h"
#include "tests/support/golden_model.h"
#include "tests/support/kept_state.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;
using data::HuggingFaceModel;
using testing::document_of;
using testing::expect_near;
using testing::FamilyReference;
using testing::logits_of;
using testing::stored_values;

std::pair<const char*, int> of_all_axes(const nn::ModelConfig& config) {
  if (config.moe.num_experts == 0) return {"tp2", 2};
  return config.moe.num_experts % 2 == 0 ? std::pair("tp2ep2", 4) : std::pair("tp2ep3", 6);
}

/// What a family's model.safetensors would hold were each tensor its gradient, whichever rank has which part of it.
class WholeGradients {
 public:
  /// On each rank.
  void add(const core::ParameterList& parameters) {
    const std::lock_guard lock(mutex_);
    for (const core::Parameter* p : parameters) {
      Tensor& whole = state_[p->name].tensor;
      if (!whole.defined()) state_[p->name] = core::StateEntry::whole(zeros(p->global_shape));
      if (p->is_frozen()) continue;
      const std::vector<double> mine = testing::values_of(p->slot->grad);
      auto* values = whole.mutable_host<float>();
      core::for_each_element(*p, [&](std::int64_t i, std::int64_t global) {
        values[global] = static_cast<float>(mine[static_cast<std::size_t>(i)]);
      });
    }
  }
  std::map<std::string, std::vector<double>> stored(const nn::ModelConfig& config) const {
    const testing::TemporaryFolder folder;
    data::export_hugging_face(testing::KeptState(state_), config, folder / "out", {.dtype = DType::F32});
    const data::SafetensorsFile file(folder / "out" / "model.safetensors");
    std::map<std::string, std::vector<double>> all;
    for (const auto& [name, entry] : file.tensors()) {
      const std::vector<float> values = stored_values(file, name, false);
      all[name].assign(values.begin(), values.end());
    }
    return all;
  }

 private:
  static Tensor zeros(const core::Shape& shape) { return Tensor::zeros(core::Memory::cpu(1), DType::F32, shape); }

  std::mutex mutex_;
  core::StateDict state_;
};

/// The worst of the differences of tensors' projections, of max(max|b|, G/100), G the largest entry of all: no
/// entry of a tensor is further from what is expected unless others are too. `expected`: [M,5].
double worst_projected_error(const std::vector<testing::ListedTensor>& tensors,
                             const std::map<std::string, std::vector<double>>& gradients,
                             const std::vector<double>& expected) {
  constexpr std::size_t columns = 5;
  EXPECT_EQ(expected.size(), columns * tensors.size());
  EXPECT_EQ(gradients.size(), tensors.size());
  double greatest = 0, worst = 0;
  for (std::size_t t = 0; t < tensors.size(); ++t) greatest = std::max(greatest, expected.at(columns * t));
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const double* row = &expected[columns * t];
    const auto found = testing::projections(tensors[t].name, gradients.at(tensors[t].name));
    for (std::size_t p = 0; p < found.size(); ++p) {
      const double error = std::abs(found[p] - row[1 + p]) / std::max(row[0], greatest / 100);
      worst = std::max(worst, std::isnan(error) ? 1e300 : error);
    }
  }
  return worst;
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
  std::vector<std::pair<const char*, int>> layouts = {{"dp1", 1}, {"dp2", 2}, {"tp2", 2}, {"cp2", 2}};
  const bool by_two = config.moe.num_experts % 2 == 0;
  if (config.moe.num_experts > 0)
    layouts.insert(layouts.end(), {{by_two ? "ep2" : "ep3", by_two ? 2 : 3}, {"etp2", 2}, of_all_axes(config)});
  if (config.moe.expert_bias) layouts.emplace_back("ep2etp2", 4);
  if (config.moe.num_experts > 0) layouts.emplace_back("cp2tp2", 4);
  for (const auto& [layout, ranks] : layouts)
    for (const DType dtype : {DType::F32, DType::F64}) {
      SCOPED_TRACE(fmt::format("{} {}", layout, core::name_of(dtype)));
      testing::run_ranks(ranks, [&, layout = layout, ranks = ranks](testing::RankWorld& world) {
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

/// Models of other weights and other texts, whose logits and gradients are held to what they are on random directions.
class OtherSeeds : public ::testing::TestWithParam<std::tuple<const char*, int>> {
 protected:
  const FamilyReference reference{std::get<0>(GetParam()), std::get<1>(GetParam())};
  const HuggingFaceModel model{reference.folder()};
  const nn::ModelConfig config = model.model_config();
};

TEST_P(OtherSeeds, LogitsAreThoseOfTransformers) {
  const std::vector<double> expected = reference.values("/logits");
  const double largest = reference.values("/largest").at(0);
  for (const DType dtype : {DType::F32, DType::F64}) {
    const std::vector<double> logits = logits_of(model, config, reference.samples(), dtype);
    const auto columns = static_cast<std::size_t>(config.vocabulary);
    ASSERT_EQ(logits.size() / columns * 4, expected.size());
    double worst = 0;
    for (std::size_t token = 0; token < logits.size() / columns; ++token) {
      const auto found = testing::projections("logits", std::span(logits).subspan(token * columns, columns));
      for (std::size_t p = 0; p < 4; ++p) worst = std::max(worst, std::abs(found[p] - expected[4 * token + p]));
    }
    // Errors of roundings add up as the root of their number.
    EXPECT_LE(worst, dtype == DType::F32 ? 1e-5 * std::sqrt(config.vocabulary) * largest : 1e-11 * largest);
  }
}

TEST_P(OtherSeeds, GradientsAreThoseOfTransformers) {
  const std::vector<double> expected = reference.values("/gradients");
  const double loss = reference.values("/loss").at(0);
  for (const auto& [layout, ranks] : {std::pair("dp1", 1), of_all_axes(config)})
    for (const DType dtype : {DType::F32, DType::F64}) {
      SCOPED_TRACE(fmt::format("{} {}", layout, core::name_of(dtype)));
      WholeGradients whole;
      testing::run_ranks(ranks, [&, layout = layout, ranks = ranks](testing::RankWorld& world) {
        launch::Rank rank(world.comm, layout, 1, /*sequence_parallel=*/ranks == 2);
        nn::Transformer own(config, rank.sharded(dtype));
        own.load(model);
        parallel::GradientSync sync(own.parameters(), rank.mesh(), rank.memory(), dtype);
        const optim::LanguageModelling objective;
        const launch::StepResult result =
            launch::forward_backward(rank, {own, nullptr, objective}, reference.samples(), {}, sync);
        EXPECT_NEAR(result.loss(), loss, (dtype == DType::F32 ? 1e-5 : 1e-12) * loss);
        whole.add(own.parameters());
      });
      EXPECT_LE(worst_projected_error(reference.tensors(), whole.stored(config), expected),
                dtype == DType::F32 ? 1e-4 : 1e-6);  // both stored in float32
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
// tell what they have to. It knows no groups of experts that are chosen by their best, and no limits of steps.
TEST_P(Families, ComeBackFromGguf) {
  const HuggingFaceModel model(reference.folder());
  nn::ModelConfig config = model.model_config();
  std::vector<double> expected = reference.values("/logits");
  if (config.is_latent() && config.moe.scores == nn::RouterScores::Softmax) {  // as V2-Lite: without groups, one mscale
    config.moe.num_groups = config.moe.groups_per_token = 1;
    config.rope_scaling.mscale = config.rope_scaling.mscale_all;
    expected = logits_of(model, config, reference.samples(), DType::F64);
  }
  if (config.mamba.most_step > 0) {
    EXPECT_THAT(data::beyond_all_families(config, data::beyond_gguf),
                ::testing::Optional(::testing::HasSubstr("steps are held within nothing")));
    config.mamba.least_step = config.mamba.most_step = 0;
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
  if (config.num_mamba_layers() > 0) {
    EXPECT_STREQ(data::family_for(again.model_config(), "x").name, data::family_for(config, "x").name);
  }
  if (config.is_latent()) {
    // Its numbers are float32.
    export_hugging_face(again, again.model_config(), folder / "back", {.dtype = DType::F32});
    expect_near(logits_of(HuggingFaceModel(folder / "back"), again.model_config(), reference.samples(), DType::F32),
                expected, 1e-5);
  }
  for (const bool as_kept : {false, true})
    expect_near(logits_of(again, again.model_config(), reference.samples(), DType::F32, as_kept), expected, 1e-5);
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

/// Of what a model's routers choose.
void expect_chosen(const FamilyReference& reference) {
  const HuggingFaceModel source(reference.folder());
  const nn::ModelConfig config = source.model_config();
  const auto memory = core::Memory::cpu(1);
  nn::Transformer model(config, {.memory = memory, .dtype = DType::F32, .frozen = true});
  model.load(source);
  const data::TokenBatch samples = reference.samples();
  const nn::Batch batch = launch::make_batch(memory, samples, 0, samples.num_sequences);
  nn::RoutingLog log;
  nn::Pass pass = model.pass(batch);
  pass.routing = &log;
  core::Tape off(core::Tape::Mode::Off);
  model.forward(off, pass);
  const std::vector<double> expected = reference.values("/experts");  // [T,N,K], those of a token ascending
  const std::int64_t tokens = std::ssize(samples.tokens), layers = config.num_moe_layers();
  const std::int64_t k = config.moe.experts_per_token;
  ASSERT_GT(layers, 0);
  ASSERT_EQ(std::ssize(expected), tokens * layers * k);
  for (std::int64_t layer = 0, i = -1; layer < config.num_layers; ++layer) {
    if (!config.is_moe_layer(layer)) continue;
    ++i;
    auto chosen = core::host_values<std::int32_t>(*log.find(fmt::format("layers.{}.moe", layer), batch.global_index));
    for (std::int64_t t = 0; t < tokens; ++t) {
      const auto of_token = chosen.begin() + t * k;
      std::sort(of_token, of_token + k);
      EXPECT_TRUE(std::equal(of_token, of_token + k, expected.begin() + (t * layers + i) * k)) << layer << " " << t;
    }
  }
}

class Mixtures : public ::testing::TestWithParam<const char*> {};

TEST_P(Mixtures, TheChosenExpertsAreThoseOfTransformers) {
  expect_chosen(FamilyReference(GetParam()));
  for (int other = 0; other < FamilyReference::num_others; ++other) {
    SCOPED_TRACE(other);
    expect_chosen({GetParam(), other});
  }
}

INSTANTIATE_TEST_SUITE_P(OfPeople, Mixtures,
                         ::testing::Values("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "deepseek_v2",
                                           "deepseek_v3", "kimi_k2", "glm4_moe", "glm4_moe_air", "gpt_oss",
                                           "granite_hybrid"),
                         [](const auto& test) { return std::string(test.param); });

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
    for (const char* part : {"attention.o.", "mamba.o.", "mlp.down."})
      if (p->name.starts_with("layers.1." + std::string(part))) p->value.fill_zero();
  core::Tape off(core::Tape::Mode::Off);
  const nn::Batch batch = launch::make_batch(memory, reference.samples(), 0, reference.samples().num_sequences);
  const Tensor hidden = model.forward(off, model.pass(batch)).hidden.value;
  const Tensor logits = core::logits_of(hidden, model.head().value, model.head_bias().value);
  expect_near(student, testing::values_of(logits), 1e-12);
}

// Experts that are slices of the feed-forward give what it gave; where there is none, or no gate, there are none.
TEST_P(DenseFamilies, UpcycledTheyAreWhatTheyWereOrAreRefused) {
  const HuggingFaceModel teacher(reference.folder());
  const nn::ModelConfig config = teacher.model_config();
  const auto upcycled = [&] {
    return nn::Upcycled(teacher, config, {.slices = 2, .experts = 4, .experts_per_token = 2}, true, 1);
  };
  if (!config.feed_forward) {
    EXPECT_THAT(upcycled, ::testing::ThrowsMessage<core::UsageError>(::testing::HasSubstr("has no feed-forwards")));
    return;
  }
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
                                           "phi3", "phi4_mini", "gpt2", "glm4", "mamba2", "bamba"),
                         [](const auto& test) { return std::string(test.param); });

const auto all_families = ::testing::Values(
    "llama", "llama_tied", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "olmoe", "olmo2", "gemma3",
    "phi3", "phi4_mini", "phimoe", "gpt2", "deepseek_v2", "deepseek_v3", "kimi_k2", "glm4", "glm4_moe", "glm4_moe_air",
    "gpt_oss", "mamba2", "bamba", "granite_hybrid", "granite_hybrid_dense");

INSTANTIATE_TEST_SUITE_P(OfPeople, Families, all_families, [](const auto& test) { return std::string(test.param); });

INSTANTIATE_TEST_SUITE_P(OfPeople, OtherSeeds,
                         ::testing::Combine(all_families, ::testing::Range(0, FamilyReference::num_others)),
                         [](const auto& test) {
                           return fmt::format("{}_{}", std::get<0>(test.param), std::get<1>(test.param));
                         });

}  // namespace
}  // namespace limbeck
