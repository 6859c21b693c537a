// Runs whose passes see their weights as a GGUF file holds them: the file that is written of them has those values, and
// a student that learned with them is nearer to its teacher than one that is rounded afterwards, in the file that it
// was trained for.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/models/gguf.h"
#include "data/models/gguf_model.h"
#include "launch/run/model_source.h"
#include "tests/support/state_values.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

constexpr const char* common = R"(
data { text: "text" tokenizer: "bytes" sequence_length: 32 held_out_fraction: 0.35 }
schedule { warmup_steps: 0 }
batch { sequences_per_step: 4 }
train { steps: 3 eval_tokens: 128 log_every_steps: 1 threads: 1 }
generation { max_tokens: 4 }
)";

/// Rows of 64 and 128 values: blocks of 32, where a K-quant falls back; of 256 with `width: 256`.
std::string model(std::int64_t width) {
  return fmt::format(
      "model {{ vocabulary: 264 width: {} num_layers: 2 num_heads: 4 num_kv_heads: 2 mlp_width: {} max_positions: 64 "
      "}}\n"
      "optimizer {{ rate: 1e-2 }}\n",
      width, width == 256 ? 256 : 128);
}

std::map<std::string, std::vector<float>> model_values(const core::StateReader& reader) {
  auto values = testing::state_values<float>(reader);
  std::erase_if(values, [](const auto& of_tensor) { return !core::is_of_model(of_tensor.first); });
  return values;
}

class QuantisedWeightsRuns : public ::testing::Test {
 protected:
  std::string run(const std::string& arguments, int ranks = 1) const { return folder_.succeed(arguments, ranks); }
  void expect_refused(const std::string& arguments, const std::string& why) const {
    const Outcome outcome = folder_.limbeck(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_THAT(outcome.output, HasSubstr(why)) << arguments;
  }
  launch::ModelSource open(const std::string& name) const { return launch::open_model(folder_.path() / name); }

  RunFolder folder_ = RunFolder("quantised_weights");
};

TEST_F(QuantisedWeightsRuns, AreTheValuesOfTheFileThatIsWritten) {
  folder_.write("job.textproto", model(64) + common);
  folder_.write("wide.textproto", model(256) + common);
  for (const auto& [job, type] : {std::pair("job", "Q8_0"), {"job", "Q4_0"}, {"job", "Q4_K_M"}, {"wide", "Q4_K_M"}}) {
    SCOPED_TRACE(fmt::format("{} {}", job, type));
    run(fmt::format("train {}.textproto --out run --set precision.quantised_weights={}", job, type));
    const std::string said = run(fmt::format("convert run out.gguf --dtype {} --force", type));
    EXPECT_THAT(said, HasSubstr("as its run trained it"));
    EXPECT_THAT(said, HasSubstr("read back: every value is the same, logits of 16 tokens within 0 of the largest"));
    const launch::ModelSource source = open("run");
    const auto seen = model_values(*source.reader), written = model_values(*open("out.gguf").reader);
    ASSERT_EQ(seen.size(), written.size());
    for (const auto& [name, values] : written) EXPECT_EQ(seen.at(name), values) << name;
    // They are not what the optimizer steps on, and those have moved.
    const std::string query = "layers.0.attention.q.weight", master = "optimizer/" + query + "/master";
    core::StateEntry entry = core::StateEntry::whole(
        core::Tensor::empty(core::Memory::cpu(1), core::DType::F32, source.own->tensors().at(master).shape));
    source.own->read(master, entry);
    EXPECT_NE(core::host_values<float>(entry.tensor), seen.at(query));
    // What the trainer measured is of these values.
    const json end = json::parse(folder_.read("run/end.json"))["student"];
    const json now = json::parse(run("eval run --json"))["held_out"];
    EXPECT_EQ(now["ce"], end["ce"]);
    fs::remove_all(folder_.path() / "run");
  }
}

TEST_F(QuantisedWeightsRuns, GoOnBitForBitAndAreTheSameInEveryLayout) {
  folder_.write("job.textproto", model(64) + "precision { quantised_weights: Q4_0 }\n" + common);
  run("train job.textproto --out whole");
  run("train job.textproto --out parts --steps 1");
  run("train job.textproto --out parts --resume");
  const std::vector<json> whole = folder_.metrics("whole");
  EXPECT_EQ(folder_.metrics("parts"), whole);
  EXPECT_EQ(model_values(*open("parts").reader), model_values(*open("whole").reader));
  for (const char* layout : {"dp2", "tp2"}) {
    run(fmt::format("train job.textproto --out {} --set parallel.layout={} --steps 1", layout, layout), 2);
    EXPECT_NEAR(folder_.metrics(layout)[0]["loss"].get<double>(), whole[0]["loss"].get<double>(), 1e-5);
  }
  const Outcome cut =
      folder_.limbeck("train job.textproto --out x --set parallel.layout=tp2 --set model.mlp_width=32", 2);
  EXPECT_EQ(cut.code, 2);
  EXPECT_THAT(cut.output,
              HasSubstr("layers.0.mlp.down.weight is cut over tp within blocks of Q4_0 (16 of 32 columns are on "
                        "a rank), expected whole blocks of 32 there"));
}

TEST_F(QuantisedWeightsRuns, WhatContradictsThemIsRefused) {
  folder_.write("job.textproto", model(64) + "precision { quantised_weights: Q8_0 }\n" + common);
  expect_refused("train job.textproto --out x --set precision.bfloat16_weights=true",
                 "precision.quantised_weights is given, expected none with precision.bfloat16_weights");
  expect_refused("train job.textproto --out x --set 'optimizer.groups={ pattern: \"head.*\" frozen: true }'",
                 "precision.quantised_weights: head.weight is frozen (optimizer.groups)");
  expect_refused("train job.textproto --out x --set model.norm_placement=AFTER --set model.attention_bias=true",
                 "precision.quantised_weights: no GGUF file holds this model");
}

TEST_F(QuantisedWeightsRuns, AStudentThatLearnedWithThemIsNearerToItsTeacherThanOneThatIsRounded) {
  folder_.write("teacher.textproto", model(64) + common);
  run("train teacher.textproto --out teacher --set train.steps=150");
  folder_.write("student.textproto", std::string(R"(
    teacher { source: "teacher" }
    student_init { choice: LIST layers: [0, 1] }
    objective { cross_entropy_weight: 0 }
    optimizer { rate: 3e-4 weight_decay: 0 }
  )") + common);
  const std::string distill =
      "distill student.textproto --set train.steps=60 --set schedule.final_rate_fraction=0 --set train.eval_tokens=512 "
      "--set data.tokenizer=teacher --out ";
  // Of a run, as a file of the type: KL to the teacher by `eval`.
  const auto kl_of = [&](const std::string& name, const std::string& type) {
    run(fmt::format("convert {} {}.gguf --dtype {} --no-verify", name, name, type));
    const std::string measured =
        run(fmt::format("eval student.textproto --json --set train.eval_tokens=512 --set data.tokenizer=teacher --set "
                        "student_init= --set "
                        "model.source={}.gguf --set output.dir=none",
                        name));
    return json::parse(measured)["held_out"]["kl"].get<double>();
  };
  run(distill + "plain");
  const double plain = kl_of("plain", "Q4_0");
  // With 8 bits, a student of experts: what was trained for is what the file holds.
  const std::string of_experts = " --set 'student_init { upcycle { slices: 2 experts: 4 experts_per_token: 2 } }'";
  for (const std::string type : {"Q4_0", "Q8_0"}) {
    SCOPED_TRACE(type);
    run(distill + type + " --set precision.quantised_weights=" + type + (type == "Q8_0" ? of_experts : ""));
    const double trained = json::parse(folder_.read(type + "/end.json"))["student"]["kl"].get<double>();
    const double kl = kl_of(type, type);
    EXPECT_NEAR(kl, trained, 1e-6 + 1e-4 * trained);
    EXPECT_LT(kl, type == "Q4_0" ? 0.5 * plain : 0.05);
    EXPECT_EQ(model_values(*open(type).reader), model_values(*open(type + ".gguf").reader));
    if (type != "Q8_0") continue;
    std::size_t in_blocks = 0;
    const data::GgufFile file(folder_.path() / (type + ".gguf"));
    for (const auto& [name, tensor] : file.tensors()) {
      const bool is_matrix = tensor.shape.rank() > 1 && name.find("ffn_gate_inp") == std::string::npos;
      EXPECT_EQ(is_matrix, tensor.dtype == core::DType::Q8_0) << name;
      in_blocks += is_matrix ? 1 : 0;
    }
    EXPECT_GE(in_blocks, 2 * 7 + 1U);
  }
}

}  // namespace
}  // namespace limbeck::testing
