// Runs with adapters, as their users make them: what they save, what reads it, and what is refused.
#include "core/nn/adapters.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/models/safetensors.h"
#include "launch/run/model_source.h"
#include "tests/support/state_values.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

const std::string common = std::string(R"(
data { text: "text" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.35 }
schedule { warmup_steps: 0 }
batch { sequences_per_step: 4 }
train { steps: 4 eval_tokens: 120 log_every_steps: 1 threads: 1 }
generation { max_tokens: 4 }
)") + in_float64;

const std::string base_job = R"(
model {
  vocabulary: 264 width: 32 num_layers: 2 num_heads: 4 num_kv_heads: 2 mlp_width: 12 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 12 }
}
optimizer { rate: 1e-2 }
)" + common;

const std::string adapters_job = R"(
model { source: "base" }
adapters { rank: 3 alpha: 6 targets: ["*.attention.*", "*.experts.*"] }
optimizer { rate: 1e-2 }
)" + common;

class AdapterRuns : public ::testing::Test {
 protected:
  explicit AdapterRuns() : folder_("adapters") {
    folder_.write("base.textproto", base_job);
    folder_.write("job.textproto", adapters_job);
    EXPECT_EQ(folder_.limbeck("train base.textproto --out base").code, 0);
  }
  std::string run(const std::string& arguments, int ranks = 1) const { return folder_.succeed(arguments, ranks); }
  void expect_refused(const std::string& arguments, const std::string& why) const {
    const Outcome outcome = folder_.limbeck(arguments);
    EXPECT_NE(outcome.code, 0) << arguments;
    EXPECT_THAT(outcome.output, HasSubstr(why)) << arguments;
  }
  launch::ModelSource open(const std::string& name) const { return launch::open_model(folder_.path() / name); }

  RunFolder folder_;
};

TEST_F(AdapterRuns, SaveTheAdaptersAloneAndAreReadMerged) {
  const std::string said = run("train job.textproto --out whole");
  EXPECT_THAT(said, HasSubstr("adapters of rank 3: "));
  const launch::ModelSource source = open("whole"), base = open("base");
  const auto own = state_values<double>(*source.own), before = state_values<double>(*base.reader),
             merged = state_values<double>(*source.reader);
  for (const auto& [name, _] : own)
    EXPECT_TRUE(name.starts_with("adapters/") || name.starts_with("optimizer/adapters/")) << name;
  std::size_t num_adapted = 0, num_moments = 0;
  for (const auto& [name, _] : own) num_moments += name.starts_with("optimizer/") ? 1 : 0;
  for (const auto& [name, info] : base.reader->tensors()) {
    if (!core::is_of_model(name)) continue;
    const std::vector<double>&found = merged.at(name), &w = before.at(name);
    if (!own.contains(nn::adapter_name(name, 'a'))) {
      EXPECT_EQ(found, w) << name;
      continue;
    }
    ++num_adapted;
    const std::vector<double>&a = own.at(nn::adapter_name(name, 'a')), &b = own.at(nn::adapter_name(name, 'b'));
    const int rank = info.shape.rank();
    const auto rows = static_cast<std::size_t>(info.shape[rank - 2]),
               columns = static_cast<std::size_t>(info.shape[rank - 1]);
    double moved = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::size_t matrix = i / (rows * columns), row = i / columns % rows, column = i % columns;
      double sum = 0;
      for (std::size_t k = 0; k < 3; ++k)
        sum += b[(matrix * rows + row) * 3 + k] * a[(matrix * 3 + k) * columns + column];
      ASSERT_NEAR(found[i], w[i] + 6.0 / 3 * sum, 1e-14) << name;
      moved = std::max(moved, std::abs(sum));
    }
    EXPECT_GT(moved, 1e-6) << name;
  }
  EXPECT_EQ(num_adapted, 8U + 2U * 3U);
  EXPECT_EQ(num_moments, 2 * 2 * num_adapted);

  EXPECT_THAT(run("inspect whole/checkpoints/step_4"), HasSubstr("adapters/layers.0.attention.q.weight/a"));

  // What the trainer measured with them at its end, a reader of the merged model measures.
  const json end = json::parse(folder_.read("whole/end.json"))["student"];
  const json now = json::parse(run("eval whole --json"))["held_out"];
  EXPECT_NEAR(now["ce"].get<double>(), end["ce"].get<double>(), 1e-11);
  run("convert whole merged");
  const std::string greedy = " --prompt 'the still' --max-tokens 6 --temperature 0 --quiet";
  EXPECT_EQ(run("generate merged" + greedy), run("generate whole" + greedy));
}

TEST_F(AdapterRuns, GoOnBitForBitAndAreTheSameInEveryLayout) {
  run("train job.textproto --out whole");
  run("train job.textproto --out parts --steps 2");
  run("train job.textproto --out parts --resume");
  EXPECT_EQ(folder_.metrics("parts"), folder_.metrics("whole"));
  EXPECT_EQ(state_values<double>(*open("parts").own), state_values<double>(*open("whole").own));
  const std::vector<json> whole = folder_.metrics("whole");
  EXPECT_LT(whole[3]["loss"].get<double>(), whole[0]["loss"].get<double>());
  for (const std::string layout : {"dp2", "tp2", "tp2 --set parallel.sequence_parallel=true", "ep2"}) {
    SCOPED_TRACE(layout);
    run(fmt::format("train job.textproto --out {} --set parallel.layout={}", layout, layout), 2);
    const std::string out = layout.substr(0, 3);
    const std::vector<json> lines = folder_.metrics(out);
    for (std::size_t i = 0; i < 4; ++i) {
      expect_near(lines[i]["loss"], whole[i]["loss"], "loss");
      expect_near(lines[i]["grad_norm"], whole[i]["grad_norm"], "grad_norm");
    }
    fs::remove_all(folder_.path() / out);
  }
  expect_refused("train job.textproto --out parts --resume --set adapters.alpha=7 --set train.steps=5",
                 "its run had adapters of rank 3 and alpha 6, the config says 3 and 7: expected the same");
  expect_refused("train job.textproto --out parts --resume --set adapters= --set train.steps=5",
                 "its run had adapters, the config names none: expected the same");
  expect_refused("train job.textproto --out parts --resume --set adapters.targets=[*.attention.*] --set train.steps=5",
                 "adapters.targets names others than its run had");
}

TEST_F(AdapterRuns, RefuseAnotherModelInTheBasesPlace) {
  run("train job.textproto --out whole");
  run("train base.textproto --out other --set train.seed=2");
  fs::remove_all(folder_.path() / "base");
  expect_refused("generate whole --prompt a", "which is not there");
  fs::rename(folder_.path() / "other", folder_.path() / "base");
  expect_refused("generate whole --prompt a", "expected the model it was trained with");
  expect_refused("convert base x --adapter", "has no adapters, expected a run or a checkpoint with some");
}

TEST_F(AdapterRuns, OfAStudentCutFromItsTeacherKeepTheWholeStudent) {
  folder_.write("distill.textproto", R"(
    teacher { source: "base" }
    student_init { choice: LIST layers: [1] }
    adapters { rank: 2 targets: "layers.0.attention.[qv].*" }
    optimizer { rate: 1e-2 }
  )" + common);
  run("distill distill.textproto --out student --set data.tokenizer=teacher --steps 2");
  run("distill distill.textproto --out student --set data.tokenizer=teacher --resume");
  const launch::ModelSource source = open("student");
  EXPECT_EQ(source.base, source.own);
  const auto own = state_values<double>(*source.own), teacher = state_values<double>(*open("base").reader);
  EXPECT_EQ(own.at("layers.0.attention.q.weight"), teacher.at("layers.1.attention.q.weight"));
  EXPECT_NE(state_values<double>(*source.reader).at("layers.0.attention.q.weight"),
            own.at("layers.0.attention.q.weight"));
  EXPECT_TRUE(own.contains("adapters/layers.0.attention.v.weight/b"));
  EXPECT_FALSE(own.contains("adapters/layers.0.attention.k.weight/b"));
  run("generate student --prompt 'the still' --max-tokens 4");
  expect_refused("train base.textproto --out x --set 'adapters { rank: 2 }'",
                 "adapters are of a model that is there, expected model.source or student_init");
}

TEST_F(AdapterRuns, AreWrittenAsPeftHasThem) {
  run("train job.textproto --out whole");
  run("convert whole adapter --adapter");
  const json settings = json::parse(folder_.read("adapter/adapter_config.json"));
  EXPECT_EQ(settings["peft_type"], "LORA");
  EXPECT_EQ(settings["r"], 3);
  EXPECT_EQ(settings["lora_alpha"], 6.0);
  EXPECT_THAT(settings["base_model_name_or_path"].get<std::string>(), HasSubstr("/base/checkpoints/step_4"));
  const data::SafetensorsFile file((folder_.path() / "adapter/adapter_model.safetensors").string());
  const auto own = state_values<double>(*open("whole").own);
  const auto expect_same = [&](const std::string& stored, const std::string& name, std::size_t first,
                               std::size_t count) {
    const data::SafetensorsEntry& entry = file.tensors().at("base_model.model." + stored);
    ASSERT_EQ(entry.shape.numel(), static_cast<std::int64_t>(count)) << stored;
    std::vector<float> found(count);
    data::SafetensorsFile::read(entry, 0, static_cast<std::int64_t>(count), core::DType::F32,
                                reinterpret_cast<std::byte*>(found.data()), 1);
    for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(found[i], static_cast<float>(own.at(name)[first + i])) << stored;
  };
  expect_same("model.layers.1.self_attn.q_proj.lora_A.weight", "adapters/layers.1.attention.q.weight/a", 0, 3 * 32);
  expect_same("model.layers.1.self_attn.k_proj.lora_B.weight", "adapters/layers.1.attention.k.weight/b", 0, 16 * 3);
  std::size_t modules = 0;
  for (const auto& module : settings["target_modules"]) {
    ++modules;
    EXPECT_TRUE(file.tensors().contains("base_model.model." + module.get<std::string>() + ".lora_B.weight")) << module;
  }
  EXPECT_EQ(modules, 8U + 2U * 4U * 3U);
  EXPECT_EQ(file.tensors().size(), 2 * modules);
  expect_refused("convert whole adapter --adapter", "is there already");
  run("convert whole adapter --adapter --force");
}

}  // namespace
}  // namespace limbeck::testing
