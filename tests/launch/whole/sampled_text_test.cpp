// Steps whose text a model says itself (objective.sampled_text), against the same written out.
#include <gmock/gmock.h>

#include <algorithm>

#include "launch/run/model_source.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;

constexpr const char* teacher_job = R"(
model { vocabulary: 264 width: 16 num_layers: 2 num_heads: 2 mlp_width: 20 max_positions: 64 }
data { text: "text" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.35 }
optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 } train { steps: 12 threads: 1 }
)";

constexpr const char* distill_job = R"(
teacher { source: "teacher" }
model {
  vocabulary: 264 width: 16 num_layers: 2 num_heads: 2 mlp_width: 20 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 12 }
}
data { text: "text" sequence_length: 24 held_out_fraction: 0.35 seed: 5 }
objective {
  cross_entropy_weight: 0.3
  sampled_text { fraction: 1 first_step: 2 prompt_tokens: 10 temperature: 0 mix: 0.3 cross_entropy_weight: 0.2 }
}
moe_loss { balance_weight: 0.2 z_weight: 0.05 }
optimizer { rate: 5e-3 eps: 1e-5 clip_norm: 0 }
schedule { kind: CONSTANT warmup_steps: 0 }
batch { sequences_per_step: 5 }
train { steps: 3 seed: 11 eval_tokens: 120 log_every_steps: 1 threads: 1 }
)";

/// What is said greedily behind the last document of each sequence's first ten tokens, filled up with the text.
data::TokenBatch say(const WrittenOut& model, const data::TokenBatch& text, std::int64_t& num_said) {
  constexpr std::size_t prompt = 10, length = 24;
  constexpr std::int32_t end_of_text = 256;
  data::TokenBatch batch{.num_sequences = text.num_sequences,
                         .sequence_length = length,
                         .tokens = {},
                         .targets = {},
                         .positions = {},
                         .documents = {}};
  num_said = 0;
  for (std::size_t n = 0; n < static_cast<std::size_t>(text.num_sequences); ++n) {
    std::vector<std::int32_t> said, targets;
    for (std::size_t i = 0; i < prompt; ++i)
      if (text.documents[n * length + i] == text.documents[n * length + prompt - 1])
        said.push_back(text.tokens[n * length + i]);
    if (said.size() > 1 && said.back() == end_of_text) said.pop_back();
    targets.assign(said.size() - 1, -1);
    for (std::size_t more = 0; more < length - prompt; ++more) {
      std::vector<double> logits = model.next_logits(said);
      logits.resize(num_byte_tokens);
      targets.push_back(static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
      ++num_said;
      if (targets.back() == end_of_text) break;
      said.push_back(targets.back());
    }
    targets.resize(length, -1);
    for (std::size_t i = 0; i < length; ++i) {
      const bool is_said = i < said.size();
      batch.tokens.push_back(is_said ? said[i] : text.tokens[n * length + i]);
      batch.targets.push_back(targets[i]);
      batch.positions.push_back(static_cast<std::int32_t>(is_said ? i : i - said.size()));
      batch.documents.push_back(is_said ? 0 : 1);
    }
  }
  return batch;
}

TEST(EndToEnd, StepsOfSampledTextAreTheLoopWrittenOut) {
  const RunFolder folder("sampled_text");
  folder.write("teacher.textproto", std::string(teacher_job) + in_float64);
  folder.write("job.textproto", std::string(distill_job) + in_float64);
  ASSERT_EQ(folder.limbeck("train teacher.textproto --out teacher").code, 0);
  const launch::ModelSource source = launch::open_model(folder.path() / "teacher");
  WrittenOut teacher(source.config, read_weights(source.config, *source.reader));
  data::Loader loader(byte_token_file(folder, 0, 5),
                      {.sequence_length = 24, .vocabulary = num_byte_tokens, .seed = 5, .held_out = 0.35});
  nn::ModelConfig config = source.config;
  config.moe.num_experts = 4;
  config.moe.experts_per_token = 2;
  config.moe.expert_width = 12;
  // By whom, and the texts of how many steps before the first of them.
  for (const auto& [by, at_once] :
       {std::pair<std::string, std::int64_t>{"STUDENT", 1}, {"STUDENT", 2}, {"TEACHER", 2}}) {
    SCOPED_TRACE(fmt::format("{} {}", by, at_once));
    WrittenOut student(config, init_weights(config, 11));
    WrittenOutAdamW adamw{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5};
    std::vector<Step> steps;
    std::vector<std::int64_t> num_said(3, 0);
    std::vector<data::TokenBatch> texts;
    for (std::int64_t i = 0; i < 3; ++i) {
      if (i == 1 || (i == 2 && at_once == 1))
        for (std::int64_t of = i; of < std::min<std::int64_t>(3, i + at_once); ++of)
          texts.push_back(say(by == "STUDENT" ? student : teacher, loader.fetch(5 * of, 5),
                              num_said[static_cast<std::size_t>(of)]));
      data::TokenBatch samples = loader.fetch(5 * i, 5);
      WrittenOutObjective objective{.alpha = 0.3};
      if (i > 0) {
        samples = texts.at(static_cast<std::size_t>(i - 1));
        objective = {.alpha = 0.2, .temperature = 1, .mix = 0.3};
      }
      steps.push_back(step_of(student, &teacher, samples, objective, {.balance = 0.2, .z = 0.05}));
      adamw.step(
          student.weights(), steps.back().gradients, [](const std::string&) { return 5e-3; },
          [](const std::string& name) { return name.find("norm") == std::string::npos ? 0.1 : 0.0; });
    }
    for (const std::string layout : {"dp2", "tp2", "ep2", "cp2", "pp2"}) {
      SCOPED_TRACE(layout);
      const std::string run = fmt::format("{}{}{}", by, at_once, layout);
      const Outcome outcome = folder.limbeck(
          fmt::format("distill job.textproto --out {} --set parallel.layout={} --set parallel.shard={} "
                      "--set objective.sampled_text.by={} --set objective.sampled_text.steps_at_once={} "
                      "--set objective.sampled_text.texts_at_once=2",
                      run, layout, layout == "ep2" ? "PARAMETERS" : "NOTHING", by, at_once),
          2);
      ASSERT_EQ(outcome.code, 0) << outcome.output;
      const std::vector<json> lines = whole_lines(folder, run);
      ASSERT_EQ(lines.size(), 3U);
      for (std::size_t i = 0; i < 3; ++i) {
        expect_step(lines[i], steps[i], 5e-3, 5 * 24 * static_cast<std::int64_t>(i + 1), 5 * 24 * 2, 0, true);
        EXPECT_EQ(lines[i]["sampled_tokens"], num_said[i]);
      }
      expect_same_values(saved_values(folder.path() / run), values_of(student.weights()));
    }
  }
}

TEST(EndToEnd, SampledTextRepeatsAndGoesOnBitForBit) {
  const RunFolder folder("sampled_text_resumed");
  folder.write("teacher.textproto", std::string(teacher_job));
  folder.write("job.textproto", std::string(distill_job));
  ASSERT_EQ(folder.limbeck("train teacher.textproto --out teacher").code, 0);
  const std::string warm =
      " --set objective.sampled_text.temperature=0.9 --set objective.sampled_text.fraction=0.5 --set train.steps=8";
  std::vector<double> last;
  for (const std::string at_once : {"1", "3"}) {  // of 3, those of steps behind the stop have been said before it
    const std::string run = "distill job.textproto --set objective.sampled_text.steps_at_once=" + at_once + warm;
    ASSERT_EQ(folder.limbeck(run + " --out whole" + at_once).code, 0);
    ASSERT_EQ(folder.limbeck(run + " --out parts" + at_once + " --steps 3").code, 0);
    ASSERT_EQ(folder.limbeck(run + " --out parts" + at_once + " --resume").code, 0);
    const std::vector<json> whole = whole_lines(folder, "whole" + at_once),
                            parts = whole_lines(folder, "parts" + at_once);
    ASSERT_EQ(whole.size(), 8U);
    ASSERT_EQ(parts.size(), 8U);
    int sampled = 0;
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_EQ(whole[i]["loss"], parts[i]["loss"]) << i;
      sampled += whole[i]["sampled_tokens"] > 0 ? 1 : 0;
    }
    EXPECT_GT(sampled, 2);
    EXPECT_LT(sampled, 7);
    EXPECT_EQ(saved_values(folder.path() / ("whole" + at_once)), saved_values(folder.path() / ("parts" + at_once)));
    last.push_back(whole[7]["loss"]);
  }
  EXPECT_NE(last[0], last[1]);
}

// The baseline is the run that is asked for by its config alone.
TEST(EndToEnd, ABaselineIsTheSameStudentByCrossEntropy) {
  const RunFolder folder("baseline");
  folder.write("teacher.textproto", std::string(teacher_job));
  folder.write("job.textproto", std::string(distill_job));
  ASSERT_EQ(folder.limbeck("train teacher.textproto --out teacher").code, 0);
  const Outcome both = folder.limbeck("distill job.textproto --out both --baseline", 2);
  ASSERT_EQ(both.code, 0) << both.output;
  const std::string plain = " --set objective.cross_entropy_weight=1 --set objective.sampled_text=";
  ASSERT_EQ(folder.limbeck("distill job.textproto --out distilled", 2).code, 0);
  ASSERT_EQ(folder.limbeck("distill job.textproto --out plain" + plain, 2).code, 0);
  EXPECT_EQ(saved_values(folder.path() / "both"), saved_values(folder.path() / "distilled"));
  EXPECT_EQ(saved_values(folder.path() / "both/baseline"), saved_values(folder.path() / "plain"));
  EXPECT_NE(saved_values(folder.path() / "both"), saved_values(folder.path() / "plain"));
  EXPECT_EQ(both.lines_with("Distilled, and by the text alone:").size(), 1U) << both.output;
  EXPECT_EQ(both.lines_with("both/baseline").empty(), false) << both.output;
}

TEST(EndToEnd, SampledTextThatCannotBeIsRefused) {
  const RunFolder folder("sampled_text_refused");
  folder.write("teacher.textproto", std::string(teacher_job));
  const Outcome alone = folder.limbeck(
      "train teacher.textproto --out a --set objective.sampled_text.fraction=0.5 --set "
      "objective.sampled_text.prompt_tokens=5");
  EXPECT_EQ(alone.code, 2);
  EXPECT_THAT(alone.output, ::testing::HasSubstr("objective.sampled_text is given, expected none without a teacher"));
  const Outcome untaught = folder.limbeck("train teacher.textproto --out a --set objective.divergence=REVERSE_KL");
  EXPECT_EQ(untaught.code, 2);
  EXPECT_THAT(untaught.output, ::testing::HasSubstr("objective.divergence is given, expected none without a teacher"));
  const Outcome wide = folder.limbeck(
      "train teacher.textproto --out a --set objective.sampled_text.fraction=0.5 --set "
      "objective.sampled_text.prompt_tokens=24");
  EXPECT_EQ(wide.code, 2);
  EXPECT_THAT(wide.output, ::testing::HasSubstr("prompt_tokens is 24, expected less than data.sequence_length = 24"));
}

}  // namespace
}  // namespace limbeck::testing
