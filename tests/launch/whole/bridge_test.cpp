// Distillation from a teacher of another tokenizer from end to end (objective.bridge).
#include <gmock/gmock.h>

#include <filesystem>

#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* teacher_job = R"(
model { width: 24 num_layers: 2 num_heads: 2 mlp_width: 48 max_positions: 40 }
data { text: "text" tokenizer: "bytes" sequence_length: 32 held_out_fraction: 0.35 }
optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 8 } train { steps: 60 threads: 1 }
)";

constexpr const char* job = R"(
teacher { source: "teacher" }
model {
  width: 16 num_layers: 2 num_heads: 2 mlp_width: 20 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 12 }
}
data { text: "text" tokenizer: "mine" sequence_length: 24 held_out_fraction: 0.35 }
objective { bridge: SPANS cross_entropy_weight: 0 }
optimizer { rate: 1e-2 eps: 1e-5 }
schedule { kind: CONSTANT warmup_steps: 0 }
batch { sequences_per_step: 8 }
train { steps: 30 seed: 11 eval_tokens: 100000 log_every_steps: 1 threads: 1 }
)";

class BridgedRun : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_.write("teacher.textproto", std::string(teacher_job) + in_float64);
    folder_.write("job.textproto", std::string(job) + in_float64);
    folder_.succeed("tokenize text --train --vocab 290 --out mine --quiet");
    folder_.succeed("train teacher.textproto --out teacher --quiet");
  }
  std::string fails(const std::string& arguments) const {
    const Outcome outcome = folder_.limbeck(arguments);
    EXPECT_NE(outcome.code, 0) << arguments;
    return outcome.output;
  }
  /// `more` ends in --out. Of every line `figures`, of the last what is measured, too, are those of one rank.
  void expect_same_under_layouts(const std::string& more, const std::vector<json>& expected,
                                 const std::vector<std::string>& figures,
                                 const std::vector<std::string>& measured) const {
    for (const auto& [layout, ranks, others] : std::vector<std::tuple<std::string, int, std::string>>{
             {"dp2", 2, ""},
             {"tp2", 2, " --set parallel.sequence_parallel=true"},
             {"ep2", 2, " --set batch.micro_batches=2"},
             {"pp2", 2, " --set batch.micro_batches=2"},
             {"dp1", 1, " --set train.recompute=true --set batch.micro_batches=4"}}) {
      SCOPED_TRACE(layout + others);
      const std::string name = layout + std::to_string(others.size());
      folder_.succeed("distill job.textproto" + more + name + " --set parallel.layout=" + layout + others, ranks);
      const std::vector<json> lines = folder_.metrics(name);
      ASSERT_EQ(lines.size(), expected.size());
      const auto expect = [&](std::size_t line, const std::string& figure) {
        expect_near(lines[line][figure], expected[line][figure].get<double>(), figure);
      };
      for (std::size_t i = 0; i < lines.size(); ++i)
        for (const std::string& figure : figures) expect(i, figure);
      for (const std::string& figure : measured) expect(lines.size() - 1, figure);
    }
  }
  const RunFolder folder_{"bridge"};
};

TEST_F(BridgedRun, SpansComeNearerAndGoOnBitForBit) {
  const std::string more = " --set train.checkpoint_every_steps=10 --set train.eval_every_steps=30";
  const std::string said = folder_.succeed("distill job.textproto --out whole" + more);
  EXPECT_THAT(said, AllOf(HasSubstr("reads its own tokens"), HasSubstr("spans: KL to the teacher, mean"),
                          HasSubstr("teacher's bits/byte"), Not(HasSubstr("have no spans"))));
  const std::vector<json> whole = folder_.metrics("whole");
  ASSERT_EQ(whole.size(), 30U);
  const json &first = whole.front(), &last = whole.back();
  EXPECT_LT(last["span_kl"].get<double>(), 0.7 * first["span_kl"].get<double>());
  EXPECT_LT(last["ce"].get<double>(), first["ce"].get<double>());
  for (const json& line : whole) {
    EXPECT_GT(line["span_share"], 0.5);
    EXPECT_LE(line["span_share"], 1);
    EXPECT_GT(line["spans"], 0);
    EXPECT_FALSE(line.contains("kl") || line.contains("top1_agreement") || line.contains("teacher_ce"));
    const double of_spans = line["span_kl"].get<double>() * line["spans"].get<double>();
    EXPECT_GT(of_spans, 0);
  }
  const json start = json::parse(folder_.read("whole/start.json")), end = json::parse(folder_.read("whole/end.json"));
  EXPECT_LT(end["student"]["span_kl"].get<double>(), 0.8 * start["student"]["span_kl"].get<double>());
  EXPECT_EQ(end["student"]["teacher_bits_per_byte"], start["student"]["teacher_bits_per_byte"]);
  EXPECT_EQ(end["student"]["span_kl"], last["eval_span_kl"]);
  EXPECT_FALSE(end["student"].contains("kl"));
  const json evaluated = json::parse(folder_.succeed("eval whole --json --quiet"));
  EXPECT_NEAR(evaluated["held_out"]["span_kl"].get<double>(), end["student"]["span_kl"].get<double>(), 1e-12);

  folder_.succeed("distill job.textproto --out parts --steps 7" + more);
  folder_.succeed("distill parts --resume");
  EXPECT_EQ(folder_.metrics("parts"), whole);
  EXPECT_EQ(saved_values(folder_.path() / "parts"), saved_values(folder_.path() / "whole"));
  folder_.succeed("report whole --out report.html");
  EXPECT_THAT(folder_.read("report.html"), AllOf(HasSubstr("KL to the teacher by span"), HasSubstr("of the spans")));
}

/// Under any layout the same; and what cross-entropy weighs is that of the straight line between first and last step.
TEST_F(BridgedRun, IsOneUnderEveryLayout) {
  const std::string more =
      " --set train.steps=3 --set objective.cross_entropy_weight=0.5 --set objective.final_cross_entropy_weight=1"
      " --set moe_loss.balance_weight=0 --set moe_loss.z_weight=0 --set train.eval_every_steps=3 --out ";
  folder_.succeed("distill job.textproto" + more + "dp1");
  const std::vector<json> expected = folder_.metrics("dp1");
  const auto targets = [](const json& line) { return line["tokens"].get<double>(); };
  EXPECT_GT(targets(expected[0]), 0);
  expect_near(expected[2]["loss"], expected[2]["ce"].get<double>(), "cross-entropy alone");
  expect_same_under_layouts(
      more, expected,
      {"loss", "ce", "span_kl", "spans", "span_share", "span_bits_per_byte", "teacher_bits_per_byte", "grad_norm"},
      {"eval_span_kl", "eval_spans", "eval_ce", "eval_teacher_bits_per_byte"});
}

/// By sorted distributions; its figures beside those of the spans on the held-out sample, and again after a halt.
TEST_F(BridgedRun, SortedDistributionsAreOneUnderEveryLayout) {
  const std::string more =
      " --set objective.bridge=ULD --set train.steps=4 --set objective.cross_entropy_weight=0.2"
      " --set objective.final_cross_entropy_weight=0.5 --set moe_loss.balance_weight=0 --set moe_loss.z_weight=0"
      " --set train.eval_every_steps=2 --set train.checkpoint_every_steps=2 --out ";
  const std::string said = folder_.succeed("distill job.textproto" + more + "dp1");
  EXPECT_THAT(said, AllOf(HasSubstr("each sorted by itself"), HasSubstr("sorted distributions (ULD)"),
                          HasSubstr("spans: KL to the teacher, mean")));
  const std::vector<json> expected = folder_.metrics("dp1");
  ASSERT_EQ(expected.size(), 4U);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const json& line = expected[i];
    EXPECT_FALSE(line.contains("span_kl") || line.contains("kl"));
    const double alpha = 0.2 + 0.1 * static_cast<double>(i);
    expect_near(
        line["loss"],
        alpha * line["ce"].get<double>() + (1 - alpha) * line["uld"].get<double>() * line["uld_share"].get<double>(),
        "the mixture");
  }
  expect_same_under_layouts(more, expected, {"loss", "ce", "uld", "uld_pairs", "uld_share", "grad_norm"},
                            {"eval_uld", "eval_uld_pairs", "eval_uld_share", "eval_span_kl", "eval_ce"});
  folder_.succeed("distill job.textproto --steps 2" + more + "parts");
  folder_.succeed("distill parts --resume");
  EXPECT_EQ(folder_.metrics("parts"), expected);
  const json evaluated = json::parse(folder_.succeed("eval dp1 --json --quiet"));
  EXPECT_NEAR(evaluated["held_out"]["uld"].get<double>(), expected[3]["eval_uld"].get<double>(), 1e-12);
  folder_.succeed("report dp1 --out report.html");
  EXPECT_THAT(folder_.read("report.html"), HasSubstr("distance of sorted distributions"));
}

/// Accents of their own, which the teacher's tokenizer puts together with their letters: of stages, the last one's rank
/// finds that.
TEST_F(BridgedRun, TextThatDoesNotComeBackIsSaidOnceOfStagesToo) {
  json changed = json::parse(folder_.read("mine/tokenizer.json"));
  changed["normalizer"] = {{"type", "NFC"}};
  std::filesystem::create_directory(folder_.path() / "changed");
  folder_.write("changed/tokenizer.json", changed.dump());
  for (const char* name : {"a", "b", "c", "d", "e"})
    folder_.write(fmt::format("text/{}.txt", name),
                  "e\u0301 1 2 3 4 e\u0301 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20\n");
  folder_.succeed("train teacher.textproto --set data.tokenizer=changed --steps 1 --out changing --quiet");
  for (const auto& [layout, ranks] : {std::pair{"dp1", 1}, {"pp2", 2}}) {
    const std::string run = fmt::format(
        "distill job.textproto --set teacher.source=changing --set data.tokenizer=bytes --steps 1 --set "
        "parallel.layout={0} --out {0}",
        layout);
    EXPECT_EQ(folder_.limbeck(run, ranks).lines_with("such parts of documents have no spans").size(), 1U) << layout;
    EXPECT_THAT(folder_.limbeck(run + "q --quiet", ranks).lines_with("have no spans"), ::testing::IsEmpty());
  }
}

TEST_F(BridgedRun, WhatCannotBeIsOneLine) {
  EXPECT_THAT(fails("distill job.textproto --out r --set objective.bridge=NO_BRIDGE"),
              AllOf(HasSubstr("is another tokenizer than the teacher's"), HasSubstr("objective.bridge")));
  for (const auto& [field, said] : std::vector<std::pair<std::string, std::string>>{
           {"teacher.cache=c", "teacher.cache is given with objective.bridge, expected none"},
           {"objective.hidden_states.weight=1", "objective.hidden_states.weight is given with objective.bridge"},
           {"objective.divergence=REVERSE_KL", "objective.divergence is given with objective.bridge"},
           {"objective.temperature=2", "objective.temperature is given with objective.bridge, expected 1"},
           {"objective.sampled_text.fraction=0.5",
            "objective.sampled_text is given with objective.bridge, expected none"},
           {"objective.control=UNTRAINED", "objective.control is given with objective.bridge"},
           {"train.cuda_graph=true", "train.cuda_graph is given with objective.bridge"},
           {"train.keep_best=kl", "expected a figure without a teacher"}})
    EXPECT_THAT(fails("distill job.textproto --out r --set train.eval_every_steps=1 --set " + field), HasSubstr(said))
        << field;
  EXPECT_THAT(fails("distill job.textproto --out r --dump-gradients g.h5"), HasSubstr("--dump-gradients is given"));
  EXPECT_THAT(fails("cache-teacher job.textproto --out c"), HasSubstr("objective.bridge"));
  EXPECT_THAT(fails("train teacher.textproto --out r --set objective.bridge=SPANS"),
              HasSubstr("objective.bridge is given, expected none without a teacher"));
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "r" / "checkpoints"));
}

}  // namespace
}  // namespace limbeck::testing
