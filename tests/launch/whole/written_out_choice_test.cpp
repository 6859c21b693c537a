// A short run of `limbeck train` whose experts choose their tokens, against the same run written out
// (tests/support/written_out_run.h), and what is said of such a model afterwards.

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>
#include <tuple>

#include "launch/run/model_source.h"
#include "tests/support/small_model.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* job = R"(
data { text: "text" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.35 seed: 5 }
moe_loss { z_weight: 0.05 }
routing { expert_choice: true capacity_factor: 0.8 jitter: 0.2 }
optimizer { rate: 2e-2 beta1: 0.8 beta2: 0.9 eps: 1e-5 weight_decay: 0.3 clip_norm: 0 }
schedule { warmup_steps: 0 final_rate_fraction: 1 }
batch { sequences_per_step: 5 micro_batches: 2 }
train { steps: 3 seed: 11 recompute: true eval_every_steps: 3 eval_tokens: 80 log_every_steps: 1 threads: 1 }
)";

TEST(EndToEnd, ExpertsThatChooseAreThoseOfTheLoopWrittenOut) {
  const RunFolder folder("written_out_choice");
  folder.write("job.textproto", small_mixture + job + in_float64);
  const nn::ModelConfig model = small_model(num_byte_tokens, 4);
  data::Loader loader(byte_token_file(folder, 0, 5),
                      {.sequence_length = 24, .vocabulary = num_byte_tokens, .seed = 5, .held_out = 0.35});
  const data::TokenBatch held_out = loader.held_out_batch(3);
  WrittenOut student(model, init_weights(model, 11));
  WrittenOutAdamW adamw{.beta1 = 0.8, .beta2 = 0.9, .eps = 1e-5};
  std::vector<Step> steps;
  for (std::size_t i = 0; i < 3; ++i) {
    steps.push_back(
        step_of(student, nullptr, loader.fetch(5 * static_cast<std::int64_t>(i), 5), {},
                {.z = 0.05, .capacity_factor = 0.8, .expert_choice = true, .jitter = 0.2, .seed = 11, .step = i}));
    adamw.step(
        student.weights(), steps.back().gradients, [](const std::string&) { return 2e-2; },
        [](const std::string& name) { return name.find("norm") != std::string::npos ? 0.0 : 0.3; });
    // ceil(0.8 * 24 * 2 / 4) tokens of each of five sequences.
    EXPECT_THAT(steps.back().load[0], ElementsAre(50, 50, 50, 50));
  }
  EXPECT_GT(steps[0].untaken[0] + steps[1].untaken[0] + steps[2].untaken[0], 0);
  const Figures by_tokens = figures_on(student, nullptr, held_out);
  core::Tape off(core::Tape::Mode::Off);
  const core::Tensor by_experts =
      student.run(off, held_out, {.capacity_factor = 0.8, .expert_choice = true}).logits.value;
  const Figures moved =
      figures_of(student.run(off, held_out).logits.value, &by_experts, held_out.targets, num_byte_tokens);
  ASSERT_GT(moved.kl, 1e-6);
  const std::string said = continuation(student, "the still", 9, {0, 0, 1, 0});

  for (const auto& [layout, shard, ranks] : {std::tuple{"dp1", "NOTHING", 1}, std::tuple{"cp2ep2", "PARAMETERS", 2}}) {
    SCOPED_TRACE(layout);
    const std::string run = layout;
    const Outcome outcome = folder.limbeck(
        fmt::format("train job.textproto --out {0} --set parallel.layout={0} --set parallel.shard={1}", layout, shard),
        ranks);
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("is of tokens that choose 2 experts each"));
    const std::vector<json> lines = folder.metrics(run);
    ASSERT_EQ(lines.size(), 3U);
    for (std::size_t i = 0; i < 3; ++i) {
      expect_step(lines[i], steps[i], 2e-2, 5 * 24 * static_cast<std::int64_t>(i + 1), 200, 0);
      EXPECT_TRUE(lines[i]["expert_load"][0].contains("untaken"));
    }
    expect_evaluation(lines[2], by_tokens, false);
    expect_near(lines[2]["eval_choice_kl"], moved.kl, "eval_choice_kl");
    expect_near(lines[2]["eval_choice_ce"], moved.teacher_ce, "eval_choice_ce");
    expect_same_values(saved_values(folder.path() / run), values_of(student.weights()));
  }

  // Whoever reads it later is told, once.
  const Outcome told = folder.limbeck("generate dp1 --prompt 'the still' --max-tokens 9 --temperature 0");
  EXPECT_THAT(told.output, HasSubstr(in_json("the still" + said + "\n")));
  EXPECT_EQ(told.lines_with("each token chooses 2 experts: on its run's held-out text at a KL of ").size(), 1U)
      << told.output;
  const Outcome converted = folder.limbeck("convert dp1 dp1.gguf");
  EXPECT_EQ(converted.code, 0) << converted.output;
  EXPECT_EQ(converted.lines_with("in what it is written as, each token chooses").size(), 1U) << converted.output;
}

}  // namespace
}  // namespace limbeck::testing
