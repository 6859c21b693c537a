// Layers that predict further tokens, in training and in files, against PyTorch's (tests/golden/make_predict.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "core/nn/student/student_init.h"
#include "core/ops/head_loss.h"
#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "launch/run/conversion_check.h"
#include "launch/run/model_source.h"
#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/support/family_reference.h"
#include "tests/support/kept_state.h"
#include "tests/support/layouts.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;
using data::HuggingFaceModel;
using testing::expect_near;
using testing::FamilyReference;

constexpr const char* family = "deepseek_v3_mtp";

/// By the names of the file.
std::map<std::string, std::vector<float>> values_of_file(const fs::path& folder) {
  const data::SafetensorsFile file(folder / "model.safetensors");
  std::map<std::string, std::vector<float>> values;
  for (const auto& [name, entry] : file.tensors()) values[name] = testing::stored_values(file, name, false);
  return values;
}

TEST(Predict, TokensAheadAreOfTheSameDocumentAndKeepTheirMasks) {
  const auto memory = core::Memory::cpu(1);
  const std::vector<std::int32_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8}, targets = {2, -1, 3, -1, 6, 9, 8, 7};
  const std::vector<std::int32_t> position = {0, 1, 2, 0, 1, 0, 1, 2}, document = {0, 0, 0, 1, 1, 0, 0, 0};
  const std::vector<std::int32_t> sequence = {0, 0, 0, 0, 0, 1, 1, 1};
  const std::vector<std::int64_t> index = {0, 1, 2, 3, 4, 5, 6, 7}, offsets = {0, 5, 8};
  const auto batch_of = [&](const std::vector<std::int32_t>& ids) {
    return nn::make_batch(memory, {.tokens = ids,
                                   .targets = targets,
                                   .position = position,
                                   .document = document,
                                   .sequence = sequence,
                                   .global_index = index,
                                   .sequence_offsets = offsets,
                                   .num_ahead = 2});
  };
  nn::Batch batch = batch_of(tokens);
  const auto values = [](const Tensor& column) { return core::host_values<std::int32_t>(column); };
  using ::testing::ElementsAre;
  ASSERT_EQ(batch.ahead.size(), 2U);
  EXPECT_THAT(values(batch.ahead[0].tokens), ElementsAre(2, 3, 0, 5, 0, 7, 8, 0));
  EXPECT_THAT(values(batch.ahead[0].targets), ElementsAre(-1, 3, -1, 6, -1, 8, 7, -1));
  EXPECT_THAT(values(batch.ahead[1].tokens), ElementsAre(3, 0, 0, 0, 0, 8, 0, 0));
  EXPECT_THAT(values(batch.ahead[1].targets), ElementsAre(3, -1, -1, -1, -1, 7, -1, -1));
  const std::vector<std::int32_t> others = {8, 7, 6, 5, 4, 3, 2, 1};
  batch.copy_values(batch_of(others));
  EXPECT_THAT(values(batch.ahead[0].tokens), ElementsAre(7, 6, 0, 4, 0, 2, 1, 0));
}

TEST(Predict, LogitsOfEachDepthAreThoseOfPyTorch) {
  const FamilyReference reference(family);
  const HuggingFaceModel source(reference.folder());
  const nn::ModelConfig config = source.model_config();
  ASSERT_EQ(config.num_predict_layers, 2);
  const data::TokenBatch samples = reference.samples();
  for (const DType dtype : {DType::F32, DType::F64}) {
    const auto memory = core::Memory::cpu(1);
    nn::Transformer model(config, {.memory = memory, .dtype = dtype, .frozen = true, .with_predict = true});
    model.load(source);
    core::Tape off(core::Tape::Mode::Off);
    const nn::Batch batch = launch::make_batch(memory, samples, 0, samples.num_sequences, 0, 2);
    const nn::Pass pass = model.pass(batch);
    nn::Transformer::Output out = model.forward(off, pass);
    const auto logits = [&] { return testing::values_of(core::logits_of(out.hidden.value, model.head().value)); };
    const double tolerance = dtype == DType::F32 ? 1e-5 : 2e-7;  // stored in float32
    expect_near(logits(), reference.values("/logits"), tolerance);
    for (const std::int64_t k : {0, 1}) {
      out = model.predict(off, pass, k, out.stream, batch.ahead[static_cast<std::size_t>(k)].tokens);
      std::vector<double> found = logits();
      for (std::size_t i = 0; i < samples.tokens.size(); ++i) {  // of tokens that have one so far on
        const std::size_t j = i + static_cast<std::size_t>(k) + 1;
        const bool is_known = j / 24 == i / 24 && samples.documents[j] == samples.documents[i];
        const auto row = found.begin() + static_cast<std::ptrdiff_t>(i) * config.vocabulary;
        if (!is_known) std::fill(row, row + config.vocabulary, 0.0);
      }
      expect_near(found, reference.values(fmt::format("/predict/logits/{}", k)), tolerance);
    }
  }
}

struct Layout {
  const char* name;
  int ranks;
  bool sequence_parallel = false;
  std::int64_t micro_batches = 1;
  bool recompute = false;
};

const std::vector<Layout> layouts = {{"dp1", 1},
                                     {"dp1", 1, false, 2, true},
                                     {"dp2", 2},
                                     {"tp2", 2},
                                     {"tp2", 2, true},
                                     {"ep2", 2},
                                     {"etp2", 2},
                                     {"tp2ep2", 4},
                                     {"tp2ep2", 4, true},
                                     {"tp2dp2", 4, true},
                                     {"tp2ep2", 2, true, 2, true}};

void on_layouts(const std::function<void(launch::Rank&, const Layout&, DType)>& body,
                const std::vector<Layout>& also = {}) {
  std::vector<Layout> all = layouts;
  all.insert(all.end(), also.begin(), also.end());
  for (const Layout& layout : all)
    for (const DType dtype : {DType::F32, DType::F64}) {
      SCOPED_TRACE(fmt::format("{} on {}{} {}", layout.name, layout.ranks, layout.sequence_parallel ? " sequence" : "",
                               core::name_of(dtype)));
      testing::run_ranks(layout.ranks, [&](testing::RankWorld& world) {
        launch::Rank rank(world.comm, layout.name, 1, layout.sequence_parallel);
        body(rank, layout, dtype);
      });
    }
}

nn::ModelOptions with_predict(nn::ModelOptions options) {
  options.with_predict = true;
  return options;
}

TEST(Predict, LossesAndGradientsAreThoseOfPyTorchUnderAnyLayout) {
  const FamilyReference reference(family);
  const HuggingFaceModel source(reference.folder());
  const std::map<std::string, std::vector<double>> expected = reference.gradients();
  const double total = reference.values("/loss/total").at(0), ce = reference.values("/loss/ce").at(0);
  const std::vector<double> predict = reference.values("/loss/predict");
  on_layouts(
      [&](launch::Rank& rank, const Layout& layout, DType dtype) {
        const launch::Pipeline pipeline =
            testing::pipeline_of(rank, source.model_config(),
                                 testing::with_schedule(launch::PipelineKind::ZeroBubble, 1), layout.micro_batches);
        nn::Transformer model(source.model_config(),
                              pipeline.part_of(with_predict(rank.sharded(dtype)), rank.mesh().pp().rank()));
        model.load(source);
        EXPECT_EQ(model.num_predictors(), rank.is_last_stage() ? 2 : 0);
        parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), dtype);
        const optim::LanguageModelling objective;
        const launch::StepResult result =
            launch::forward_backward(rank, {model, nullptr, objective}, reference.samples(),
                                     {.micro_batches = layout.micro_batches,
                                      .pipeline = &pipeline,
                                      .router = {.z = 0.01},
                                      .recompute = layout.recompute,
                                      .predict_weight = 0.3},
                                     sync);
        const double tolerance = dtype == DType::F32 ? 1e-5 : 1e-12;
        EXPECT_NEAR(result.loss(), total, tolerance * total);
        EXPECT_NEAR(result.objective, ce, tolerance * ce);
        ASSERT_EQ(result.predict.size(), 2U);
        for (std::size_t k = 0; k < 2; ++k)
          EXPECT_NEAR(result.predict[k].loss, 0.15 * predict[k], tolerance * predict[k]);
        EXPECT_NEAR(result.z, 0.01 * reference.values("/loss/z").at(0), tolerance);
        EXPECT_LE(testing::worst_gradient_error(model.parameters(), expected), dtype == DType::F32 ? 1e-4 : 1e-6);
        ASSERT_EQ(result.expert_load.size(), 3U);  // of one layer with experts, and of those that predict
        for (const std::vector<double>& load : result.expert_load)
          EXPECT_EQ(std::accumulate(load.begin(), load.end(), 0.0), 48 * 3);
      },
      {{"cp2", 2},
       {"cp3", 3, false, 2, true},
       {"cp2tp2", 4, true},
       {"pp2", 2, false, 3},
       {"pp2tp2", 4, true, 2, true}});
}

// The teacher is the model itself with logits three times as large, a depth's at the token that it predicts from.
TEST(Predict, DistillsTheTeachersTokensFurtherOn) {
  const FamilyReference reference(family);
  const HuggingFaceModel source(reference.folder());
  const nn::ModelConfig config = source.model_config();
  const double total = reference.values("/distilled/total").at(0);
  const std::vector<double> predict = reference.values("/distilled/predict");
  std::map<std::string, std::vector<double>> expected;
  for (const char* name :
       {"embed.weight", "predict.0.project.weight", "predict.1.project.weight", "predict.0.norm.weight"})
    expected[name] = reference.values(data::hdf5_path("/distilled/gradients", name));
  on_layouts([&](launch::Rank& rank, const Layout& layout, DType dtype) {
    nn::Transformer model(config, with_predict(rank.sharded(dtype)));
    model.load(source);
    nn::Transformer teacher(config, rank.frozen_copy(dtype));
    teacher.load(source);
    EXPECT_EQ(teacher.num_predictors(), 0);
    core::dispatch_float("test", dtype, [&]<class T>() {
      Tensor& head = teacher.parameter("head.weight").value;
      for (std::int64_t i = 0; i < head.numel(); ++i) head.mutable_data<T>()[i] *= 3;
    });
    parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), dtype);
    const optim::Distillation objective({.ce_weight = 0.4, .temperature = 1.5});
    const launch::StepResult result = launch::forward_backward(
        rank, {model, &teacher, objective}, reference.samples(),
        {.micro_batches = layout.micro_batches, .recompute = layout.recompute, .predict_weight = 0.3}, sync);
    const double tolerance = dtype == DType::F32 ? 1e-5 : 1e-12;
    EXPECT_NEAR(result.loss(), total, tolerance * total);
    for (std::size_t k = 0; k < 2; ++k) EXPECT_NEAR(result.predict[k].loss, 0.15 * predict[k], tolerance * predict[k]);
    core::ParameterList of_reference;
    for (core::Parameter* p : model.parameters())
      if (expected.contains(p->name)) of_reference.push_back(p);
    ASSERT_EQ(of_reference.size(), expected.size());
    EXPECT_LE(testing::worst_gradient_error(of_reference, expected), dtype == DType::F32 ? 1e-4 : 1e-6);
  });
}

// Without them the model is what it is, and its passes have nothing of them.
TEST(Predict, AreBuiltWhereTheyAreAskedFor) {
  const FamilyReference reference(family);
  const HuggingFaceModel source(reference.folder());
  const nn::ModelConfig config = source.model_config();
  const auto memory = core::Memory::cpu(1);
  nn::Transformer plain(config, {.memory = memory}), whole(config, {.memory = memory, .with_predict = true});
  std::int64_t values = 0;
  for (const core::Parameter* p : whole.parameters()) values += p->global_shape.numel();
  EXPECT_EQ(values, nn::count_parameters(config).total);
  nn::ModelConfig without = config;
  without.num_predict_layers = 0;
  values = 0;
  for (const core::Parameter* p : plain.parameters()) {
    EXPECT_FALSE(p->name.starts_with("predict."));
    values += p->global_shape.numel();
  }
  EXPECT_EQ(values, nn::count_parameters(without).total);
  EXPECT_EQ(nn::count_parameters(config).active, nn::count_parameters(without).active);
}

TEST(Predict, FoldersComeBackBitForBit) {
  const FamilyReference reference(family);
  const HuggingFaceModel model(reference.folder());
  EXPECT_THAT(model.notices(), ::testing::IsEmpty());
  const testing::TemporaryFolder folder;
  data::export_hugging_face(model, model.model_config(), folder / "out", {.dtype = DType::F32});
  EXPECT_EQ(values_of_file(folder / "out"), values_of_file(reference.folder()));
  EXPECT_EQ(HuggingFaceModel(folder / "out").model_config(), model.model_config());
  const auto json = nlohmann::json::parse(testing::read_file(folder / "out" / "config.json"));
  EXPECT_EQ(json["num_nextn_predict_layers"], 2);
  EXPECT_EQ(json["num_hidden_layers"], 2);
  const auto check = launch::check_conversion(launch::open_model(reference.folder()),
                                              launch::open_model(folder / "out"), {.bytes_at_once = 1024});
  EXPECT_TRUE(check.is_exact);
}

/// The folder with a part of its tensors, some of them with other values.
void write_some(const fs::path& to, const std::function<bool(const std::string&)>& is_kept,
                const std::string& changed = "") {
  const fs::path from = testing::golden_folder() / "families" / family;
  fs::create_directories(to);
  fs::copy_file(from / "config.json", to / "config.json");
  nlohmann::json head;
  std::string values;
  for (const auto& [name, own] : values_of_file(from)) {
    if (!is_kept(name)) continue;
    const data::SafetensorsFile file(from / "model.safetensors");
    const auto& extents = file.tensors().at(name).shape.extents();
    std::vector<float> copy = own;
    if (name == changed) copy.back() += 1;
    head[name] = {{"dtype", "F32"},
                  {"shape", std::vector<std::int64_t>(extents.begin(), extents.end())},
                  {"data_offsets", {values.size(), values.size() + 4 * copy.size()}}};
    values.append(reinterpret_cast<const char*>(copy.data()), 4 * copy.size());
  }
  const std::string text = head.dump();
  const std::uint64_t size = text.size();
  testing::write_file(to / "model.safetensors",
                      std::string(reinterpret_cast<const char*>(&size), sizeof size) + text + values);
}

// Copies of embedding and head may be absent; what differs from its original is said.
TEST(Predict, FoldersMayBeWithoutCopies) {
  const HuggingFaceModel whole(testing::golden_folder() / "families" / family);
  const auto is_copy = [](const std::string& name) {
    return name.starts_with("model.layers.") &&
           (name.ends_with("embed_tokens.weight") || name.ends_with("head.weight"));
  };
  const testing::TemporaryFolder folder;
  write_some(folder / "without", [&](const std::string& name) { return !is_copy(name); });
  const HuggingFaceModel without(folder / "without");
  EXPECT_THAT(without.notices(), ::testing::IsEmpty());
  EXPECT_EQ(without.model_config(), whole.model_config());
  ASSERT_EQ(without.tensors().size(), whole.tensors().size());
  for (const auto& [name, info] : whole.tensors()) {
    const auto read = [&name = name, &info = info](const HuggingFaceModel& from) {
      core::StateEntry entry = core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F32, info.shape));
      from.read(name, entry);
      return testing::values_of(entry.tensor);
    };
    EXPECT_EQ(read(without), read(whole)) << name;
  }
  const std::string changed = "model.layers.3.shared_head.head.weight";
  write_some(
      folder / "differs", [](const std::string&) { return true; }, changed);
  const HuggingFaceModel differs(folder / "differs");
  ASSERT_EQ(differs.notices().size(), 1U);
  EXPECT_THAT(differs.notices()[0], ::testing::HasSubstr(changed + " differs from what it is a copy of, head.weight"));
}

// transformers writes its own folders so.
TEST(Predict, FoldersMaySayMoreThanTheyHave) {
  const testing::TemporaryFolder folder;
  const auto layer_of = [](const std::string& name) {
    return name.starts_with("model.layers.") ? std::stoi(name.substr(std::string("model.layers.").size())) : 0;
  };
  write_some(folder / "none", [&](const std::string& name) { return layer_of(name) < 2; });
  const HuggingFaceModel none(folder / "none");
  EXPECT_EQ(none.model_config().num_predict_layers, 0);
  EXPECT_THAT(none.notices(), ::testing::IsEmpty());
  write_some(folder / "one", [&](const std::string& name) { return layer_of(name) < 3; });
  EXPECT_THAT([&] { HuggingFaceModel{folder / "one"}; },
              ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr("has no tensor model.layers.3.")));
}

nn::ModelConfig small_llama(std::int64_t num_predict_layers) {
  return {.vocabulary = 11,
          .width = 8,
          .num_layers = 2,
          .num_heads = 2,
          .num_kv_heads = 2,
          .head_width = 4,
          .mlp_width = 8,
          .max_positions = 16,
          .moe = {},
          .num_predict_layers = num_predict_layers};
}

// A GGUF file and a family that has no place for them hold the model without: it computes the same.
TEST(Predict, AreLeftOutOfOtherFiles) {
  const FamilyReference reference(family);
  const HuggingFaceModel model(reference.folder());
  const testing::TemporaryFolder folder;
  std::vector<std::string> notices;
  data::ExportWork work;
  work.notice = [&](const std::string& line) { notices.push_back(line); };
  data::export_gguf(model, model.model_config(), folder / "m.gguf", {.dtype = DType::F32, .work = work});
  ASSERT_EQ(notices.size(), 1U);
  EXPECT_THAT(notices[0], ::testing::HasSubstr("layers that predict further tokens (2) are left out"));
  const auto written = launch::open_model(folder / "m.gguf");
  EXPECT_EQ(written.config.num_predict_layers, 0);
  EXPECT_TRUE(launch::check_conversion(launch::open_model(reference.folder()), written, {}).is_exact);

  const nn::ModelConfig llama = small_llama(1);
  nn::Transformer other(llama, {.memory = core::Memory::cpu(1), .with_predict = true});
  other.init_random(1);
  const testing::KeptState reader(other.state_dict());
  notices.clear();
  data::export_hugging_face(reader, llama, folder / "llama", {.dtype = DType::F32, .work = work});
  ASSERT_EQ(notices.size(), 1U);
  EXPECT_THAT(notices[0], ::testing::HasSubstr("(1) are left out: Llama has none"));
  EXPECT_EQ(HuggingFaceModel(folder / "llama").model_config().num_predict_layers, 0);
}

// A student keeps them where its last layer is such as they are.
TEST(Predict, StudentsKeepThemWithALastLayerOfTheirKind) {
  const HuggingFaceModel teacher(testing::golden_folder() / "families" / family);
  const nn::ModelConfig config = teacher.model_config();  // a dense layer, and one with experts
  EXPECT_EQ(nn::skip_layers(config, {0, 1}).num_predict_layers, 2);
  EXPECT_EQ(nn::skip_layers(config, {1}).num_predict_layers, 2);
  EXPECT_EQ(nn::skip_layers(config, {0}).num_predict_layers, 0);
  const nn::LayerSkip skipped(teacher, 2, {1});
  nn::Transformer student(nn::skip_layers(config, {1}), {.memory = core::Memory::cpu(1), .with_predict = true});
  student.load(skipped);
  core::StateEntry entry = core::StateEntry::whole(
      Tensor::zeros(core::Memory::cpu(1), DType::F32, teacher.tensors().at("predict.1.moe.experts.up").shape));
  teacher.read("predict.1.moe.experts.up", entry);
  EXPECT_EQ(testing::values_of(student.parameter("predict.1.moe.experts.up").value), testing::values_of(entry.tensor));
}

// Experts that are slices of a dense layer that predicts give what it gave.
TEST(Predict, UpcycledTheyAreWhatTheyWere) {
  const nn::ModelConfig dense = small_llama(2);
  const auto memory = core::Memory::cpu(1);
  nn::Transformer teacher(dense, {.memory = memory, .dtype = DType::F64, .frozen = true, .with_predict = true});
  teacher.init_random(3);
  const testing::KeptState reader(teacher.state_dict());
  const nn::Upcycled upcycled(reader, dense, {.slices = 2, .experts = 4, .experts_per_token = 2}, true, 1);
  nn::Transformer student(upcycled.model_config(),
                          {.memory = memory, .dtype = DType::F64, .frozen = true, .with_predict = true});
  student.load(upcycled);
  const auto hidden = [&](const nn::Transformer& model) {
    const std::vector<std::int32_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6};
    const nn::Batch batch = nn::one_sequence(memory, tokens, 0);
    core::Tape off(core::Tape::Mode::Off);
    const nn::Pass pass = model.pass(batch);
    nn::Transformer::Output out = model.forward(off, pass);
    for (const std::int64_t k : {0, 1}) out = model.predict(off, pass, k, out.stream, batch.tokens);
    return testing::values_of(out.hidden.value);
  };
  expect_near(hidden(student), hidden(teacher), 1e-12);
}

}  // namespace
}  // namespace limbeck
