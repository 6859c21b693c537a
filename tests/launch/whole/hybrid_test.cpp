// Models of Mamba-2 layers, with attention in some and without, as teachers and students: trained, resumed, verified,
// planned, distilled, converted, and what they refuse.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/support/run_limbeck.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

class HybridRuns : public ::testing::Test {
 protected:
  std::string run(const std::string& arguments, int ranks = 1) const { return folder_.succeed(arguments, ranks); }
  std::string refused(const std::string& arguments, int ranks = 1) const {
    const Outcome outcome = folder_.limbeck(arguments, ranks);
    EXPECT_TRUE(outcome.code == 1 || outcome.code == 2) << outcome.output;
    return outcome.output;
  }
  const RunFolder folder_{"hybrid"};
  const std::string mamba_ =
      "--set 'model { num_layers: 4 mamba { num_heads: 4 head_width: 16 state_width: 8 attention_layers: [1] } }' ";
  const std::string train_ = "train tiny.textproto --quiet " + mamba_;
};

TEST_F(HybridRuns, AResumedRunIsTheWholeOneAndLayoutsAgree) {
  const std::string how = train_ + "--set schedule.kind=CONSTANT --set train.checkpoint_every_steps=2 ";
  run(how + "--steps 4 --out whole");
  run(how + "--steps 2 --set train.recompute=true --out cut");
  run("train cut --resume --quiet --steps 4");
  EXPECT_EQ(folder_.metrics("cut"), folder_.metrics("whole"));
  const std::string verified =
      run("verify tiny.textproto --quiet " + mamba_ +
          "--set optimizer.kind=MUON --precision float64 --tolerance 1e-11 --steps 1 --layouts "
          "tp2,pp2,tp2ep2+parallel.sequence_parallel=true,dp2+parallel.shard=PARAMETERS,cp3,"
          "cp2tp2+parallel.sequence_parallel=true,pp2cp2+train.recompute=true");
  EXPECT_THAT(verified, HasSubstr("7 of 7 layouts give"));
  EXPECT_THAT(run("inspect whole"), HasSubstr("3 of Mamba-2, 1 of attention"));
  EXPECT_THAT(run("plan tiny.textproto --ranks 2 " + mamba_), HasSubstr("memory"));
}

TEST_F(HybridRuns, TeachesAStudentOfItsLayers) {
  run(train_ + "--steps 4 --set model.moe.num_experts=0 --out teacher");
  folder_.write("student.textproto", R"(
    teacher { source: "teacher" }
    student_init { choice: LIST layers: [0, 1, 3] upcycle { slices: 2 experts: 4 experts_per_token: 2 } }
    data { text: "text" tokenizer: "teacher" sequence_length: 48 held_out_fraction: 0.2 }
    batch { sequences_per_step: 2 } train { steps: 3 eval_tokens: 96 threads: 1 } generation { max_tokens: 4 })");
  run("distill student.textproto --quiet --out student");
  EXPECT_THAT(run("inspect student"), HasSubstr("3: 2 of Mamba-2, 1 of attention; 3 with experts"));
  // The same tokens with drafts and without.
  const std::string generate = "generate teacher --prompt 'the still' --max-tokens 12 --temperature 0 --json --quiet ";
  const auto text = [](const std::string& output) { return json::parse(output)["text"]; };
  EXPECT_EQ(text(run(generate + "--draft student")), text(run(generate)));
  EXPECT_THAT(refused("distill student.textproto --out other --set student_init.choice=BLOCK_INFLUENCE "
                      "--set student_init.layers= --set student_init.num_layers=2"),
              HasSubstr("the teacher mixes layers of attention and of Mamba-2, expected LIST or EVENLY_SPACED"));
  EXPECT_THAT(refused("distill student.textproto --out other --set student_init.width.mlp_width=16"),
              HasSubstr("student_init.width: 2 of 3 layers of"));
}

TEST_F(HybridRuns, GoesOutAndComesBack) {
  run("train tiny.textproto --quiet --steps 1 --out alone --set model.feed_forward=false --set model.moe.num_experts=0 "
      "--set 'model { mamba { num_heads: 4 head_width: 16 state_width: 8 } }'");
  run("convert alone alone_hf --quiet");
  run("convert alone alone.gguf --dtype float32 --quiet");
  for (const char* model : {"alone_hf", "alone.gguf"})
    EXPECT_THAT(run(fmt::format("inspect {}", model)), HasSubstr("of Mamba-2, 0 of attention; no feed-forwards"));
}

// A Bamba, for a file of 8 bits; and on from that with adapters, whose merged model is what was measured at the end.
TEST_F(HybridRuns, LearnsForAQuantisedFileAndWithAdapters) {
  const std::string bamba = "--set model.moe.num_experts=0 --set model.rotary_width=4 " + mamba_;
  run("train tiny.textproto --quiet --steps 2 --out base --set precision.quantised_weights=Q8_0 " + bamba);
  EXPECT_THAT(run("convert base base.gguf --dtype Q8_0"),
              AllOf(HasSubstr("as its run trained it"), HasSubstr("read back: every value is the same, logits of")));
  const std::string adapters =
      "train tiny.textproto --quiet --steps 2 --set model= --set model.source=base.gguf "
      "--set 'adapters { rank: 2 targets: \"*.mamba.*\" }' ";
  run(adapters + "--out adapted");
  const json merged = json::parse(run("eval adapted --json"))["held_out"],
             end = json::parse(folder_.read("adapted/end.json"))["student"];
  EXPECT_NEAR(merged["ce"].get<double>(), end["ce"].get<double>(), 1e-5);
  EXPECT_THAT(
      refused(adapters + "--out other --set adapters.targets=*.A_log"),
      HasSubstr("layers.0.mamba.A_log has no adapter, expected matrices of attention, Mamba-2 and feed-forwards"));
}

TEST_F(HybridRuns, WhatIsNotComputedIsRefused) {
  EXPECT_THAT(refused(train_ + "--steps 1 --set parallel.layout=tp2 --set model.mamba.num_heads=1 --out cut", 2),
              HasSubstr("Mamba-2 layers are cut over 2 ranks (tp), expected at most 1, their heads (model.mamba)"));
  EXPECT_THAT(refused(train_ + "--steps 1 --set model.mamba.attention_layers=[4] --out other"),
              HasSubstr("model.mamba.attention_layers names layer 4, expected 0 to 3"));
}

}  // namespace
}  // namespace limbeck::testing
