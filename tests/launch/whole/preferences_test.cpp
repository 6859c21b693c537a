// Preferences from end to end (objective.preference), against the same written out.
#include <gmock/gmock.h>

#include <array>
#include <cmath>
#include <filesystem>

#include "data/text/tokenize.h"
#include "launch/run/model_source.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* start_job = R"(
model {
  vocabulary: 264 width: 16 num_layers: 2 num_heads: 2 mlp_width: 20 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 12 }
}
data { text: "text" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.35 }
optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 } train { steps: 8 threads: 1 }
)";

constexpr double beta = 0.7;
constexpr const char* job = R"(
model { source: "start" }
data { text: "pairs.jsonl" format: PAIRS sequence_length: 64 held_out_fraction: 0.25 seed: 5 }
objective { preference { beta: 0.7 } }
moe_loss { balance_weight: 0.2 z_weight: 0.05 }
optimizer { rate: 5e-3 eps: 1e-5 clip_norm: 0 }
schedule { kind: CONSTANT warmup_steps: 0 }
batch { sequences_per_step: 5 }
train { steps: 3 seed: 11 eval_tokens: 100000 log_every_steps: 1 threads: 1 }
)";

/// 24 pairs of 34 to 47 tokens: in steps of sequences of 48.
std::string pairs() {
  std::string lines;
  for (std::size_t i = 0; i < 24; ++i)
    lines += json{{"prompt", "the " + std::string(i % 4 + 1, 'x') + " still "},
                  {"chosen", "drips " + std::to_string(i) + std::string(i % 3, '.')},
                  {"rejected", std::string(i % 2 + 1, 'n') + "o"}}
                 .dump() +
             "\n";
  return lines;
}

struct Pairs {
  double loss = 0, accuracy = 0, margin = 0, chosen = 0, rejected = 0;  // means
};

/// The paper's loss of logits [T,V], and its gradient if it is asked for.
Pairs preferences(const core::Tensor& student, const core::Tensor& reference, const data::TokenBatch& samples,
                  core::Tensor* gradient) {
  const auto log_softmax = [](const core::Tensor& logits, std::size_t row) {
    const double* z = logits.data<double>() + static_cast<std::int64_t>(row) * logits.shape()[1];
    double most = z[0], sum = 0;
    for (std::int64_t v = 0; v < num_byte_tokens; ++v) most = std::max(most, z[v]);
    for (std::int64_t v = 0; v < num_byte_tokens; ++v) sum += std::exp(z[v] - most);
    std::vector<double> result;
    for (std::int64_t v = 0; v < num_byte_tokens; ++v) result.push_back(z[v] - most - std::log(sum));
    return result;
  };
  if (gradient != nullptr) *gradient = core::zeros_like(student);
  Pairs means;
  const auto n = static_cast<double>(samples.num_sequences);
  const auto length = static_cast<std::size_t>(samples.sequence_length);
  for (std::size_t sequence = 0; sequence < static_cast<std::size_t>(samples.num_sequences); ++sequence) {
    std::array<double, 2> reward{};
    for (std::size_t t = sequence * length; t < (sequence + 1) * length; ++t)
      if (const auto target = samples.targets[t]; target >= 0)
        reward.at(static_cast<std::size_t>(samples.documents[t])) +=
            beta * (log_softmax(student, t)[static_cast<std::size_t>(target)] -
                    log_softmax(reference, t)[static_cast<std::size_t>(target)]);
    const double margin = reward[0] - reward[1];
    means.loss -= std::log(1 / (1 + std::exp(-margin))) / n;
    means.accuracy += margin > 0 ? 1 / n : 0;
    means.margin += margin / n;
    means.chosen += reward[0] / n;
    means.rejected += reward[1] / n;
    if (gradient == nullptr) continue;
    for (std::size_t t = sequence * length; t < (sequence + 1) * length; ++t) {
      const auto target = samples.targets[t];
      if (target < 0) continue;
      const double weight = beta / (1 + std::exp(margin)) / n * (samples.documents[t] == 0 ? 1 : -1);
      const std::vector<double> log_q = log_softmax(student, t);
      double* g = gradient->mutable_data<double>() + static_cast<std::int64_t>(t) * student.shape()[1];
      for (std::int64_t v = 0; v < num_byte_tokens; ++v)
        g[v] = weight * (std::exp(log_q[static_cast<std::size_t>(v)]) - (v == target ? 1 : 0));
    }
  }
  return means;
}

void expect_pairs(const json& line, const Pairs& pairs, const std::string& prefix) {
  expect_near(line[prefix + "preference_accuracy"], pairs.accuracy, "accuracy");
  expect_near(line[prefix + "preference_margin"], pairs.margin, "margin");
  expect_near(line[prefix + "chosen_reward"], pairs.chosen, "chosen");
  expect_near(line[prefix + "rejected_reward"], pairs.rejected, "rejected");
}

class Preferences : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_.write("pairs.jsonl", pairs());
    folder_.write("start.textproto", std::string(start_job) + precision_);
    folder_.write("job.textproto", std::string(job) + precision_);
    run("train start.textproto --out start");
  }
  Outcome run(const std::string& arguments, int ranks = 1) const {
    Outcome outcome = folder_.limbeck(arguments, ranks);
    EXPECT_EQ(outcome.code, 0) << arguments << "\n" << outcome.output;
    return outcome;
  }
  std::string fails(const std::string& arguments) const {
    const Outcome outcome = folder_.limbeck(arguments);
    EXPECT_NE(outcome.code, 0) << arguments;
    return outcome.output;
  }
  WrittenOut model(const std::string& name) const {
    const launch::ModelSource source = launch::open_model(folder_.path() / name);
    return {source.config, read_weights(source.config, *source.reader)};
  }
  const std::string precision_ = in_float64;
  const RunFolder folder_{"preferences"};
};

TEST_F(Preferences, StepsAreTheLoopWrittenOut) {
  run("train start.textproto --out reference --set train.seed=2 --set train.steps=5");
  const WrittenOut reference = model("reference");
  data::tokenize_files({(folder_.path() / "pairs.jsonl").string()}, *data::byte_tokenizer(),
                       (folder_.path() / "written").string(), {.format = data::TextFormat::Pairs});
  data::Loader loader(
      std::make_shared<data::TokenFile>((folder_.path() / "written").string()),
      {.sequence_length = 48, .vocabulary = num_byte_tokens, .seed = 5, .held_out = 0.25, .has_pairs = true});
  WrittenOut student = model("start");
  WrittenOutAdamW adamw{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5};
  std::vector<Step> steps;
  std::vector<Pairs> of_steps;
  for (std::int64_t i = 0; i < 3; ++i) {
    const data::TokenBatch samples = loader.fetch(5 * i, 5);
    const auto loss = [&](const core::Tensor& own, const core::Tensor* theirs, core::Tensor& gradient) {
      of_steps.push_back(preferences(own, *theirs, samples, &gradient));
      return of_steps.back().loss;
    };
    steps.push_back(step_by(student, &reference, samples, loss, {.balance = 0.2, .z = 0.05}));
    adamw.step(
        student.weights(), steps.back().gradients, [](const std::string&) { return 5e-3; },
        [](const std::string& name) { return name.find("norm") == std::string::npos ? 0.1 : 0.0; });
  }
  const data::TokenBatch held_out = loader.held_out_batch(6);
  core::Tape off(core::Tape::Mode::Off);
  const Pairs after = preferences(student.run(off, held_out).logits.value, reference.run(off, held_out).logits.value,
                                  held_out, nullptr);
  EXPECT_GT(after.accuracy, 0);
  for (const auto& [layout, ranks, micro_batches] : std::vector<std::tuple<std::string, int, int>>{
           {"dp1", 1, 1}, {"dp1", 1, 3}, {"dp2", 2, 1}, {"tp2", 2, 1}, {"ep2", 2, 2}, {"dp4", 4, 1}}) {
    SCOPED_TRACE(fmt::format("{} in {}", layout, micro_batches));
    const std::string name = fmt::format("{}_{}", layout, micro_batches);
    run(fmt::format("train job.textproto --out {} --set teacher.source=reference --set parallel.layout={} --set "
                    "batch.micro_batches={} --set train.eval_every_steps=3",
                    name, layout, micro_batches),
        ranks);
    const std::vector<json> lines = whole_lines(folder_, name);
    ASSERT_EQ(lines.size(), 3U);
    for (std::size_t i = 0; i < 3; ++i) {
      expect_step(lines[i], steps[i], 5e-3, 5 * 48 * static_cast<std::int64_t>(i + 1), 5 * 48 * 2, 0, true);
      expect_pairs(lines[i], of_steps[i], "");
    }
    expect_pairs(lines[2], after, "eval_");
    expect_near(lines[2]["eval_preference_loss"], after.loss, "held-out loss");
    expect_same_values(saved_values(folder_.path() / name), values_of(student.weights()));
  }
  const json evaluated = json::parse(run("eval dp1_1 --json --quiet").output);
  expect_pairs(evaluated["held_out"], after, "");
}

/// The reference is the start itself where none is named, and what was preferred at last is.
TEST_F(Preferences, AreLearntAndGoOnBitForBit) {
  const std::string more =
      " --set train.steps=24 --set train.checkpoint_every_steps=10 --set train.eval_every_steps=24";
  const std::string said = run("train job.textproto --out whole" + more).output;
  EXPECT_THAT(said, HasSubstr("pairs: right, share"));
  const std::vector<json> whole = folder_.metrics("whole");
  EXPECT_NEAR(
      whole[0]["loss"].get<double>() - whole[0]["balance_loss"].get<double>() - whole[0]["z_loss"].get<double>(),
      std::log(2.0), 1e-12);
  EXPECT_EQ(whole[0]["preference_accuracy"], 0);
  EXPECT_EQ(whole[0]["kl"], 0);
  EXPECT_EQ(whole.back()["eval_preference_accuracy"], 1);
  EXPECT_GT(whole.back()["chosen_reward"], whole.back()["rejected_reward"]);
  EXPECT_LT(whole.back()["eval_preference_loss"].get<double>(), 0.3);

  run("train job.textproto --out parts --steps 7" + more);
  run("train parts --resume");
  EXPECT_EQ(folder_.metrics("parts"), whole);
  EXPECT_EQ(saved_values(folder_.path() / "parts"), saved_values(folder_.path() / "whole"));

  run("tokenize pairs.jsonl --format pairs --tokenizer bytes --out tokens");
  run("train job.textproto --out tokenized --set data.text= --set data.tokens=tokens --set data.format=AUTO" + more);
  EXPECT_EQ(folder_.metrics("tokenized"), whole);
  EXPECT_EQ(json::parse(run("inspect tokens --json").output)["made_by"]["pairs"], true);
  EXPECT_THAT(run("report whole").output, HasSubstr("report"));
}

/// Of two sources each is told for itself: held-out pairs too, of which some are too long and left out.
TEST_F(Preferences, SourcesAreMeasuredForThemselves) {
  std::string others = json{{"prompt", std::string(60, 'p')}, {"chosen", "a"}, {"rejected", "b"}}.dump() + "\n";
  for (std::size_t i = 0; i < 12; ++i)
    others += json{{"prompt", std::string(i + 1, 'q')}, {"chosen", "same"}, {"rejected", "same"}}.dump() + "\n";
  folder_.write("others.jsonl", others);
  folder_.write("mixed.textproto", R"(
data { sources { name: "drips" text: "pairs.jsonl" format: PAIRS weight: 1 }
                             sources { name: "same" text: "others.jsonl" format: PAIRS weight: 1 } })");
  const std::string out = run("train job.textproto mixed.textproto --out mixed --set data.text= --set data.format=AUTO "
                              "--set train.steps=12 "
                              "--set train.eval_every_steps=12 --set train.keep_best=held_out/drips.preference_loss")
                              .output;
  EXPECT_THAT(out, HasSubstr("1 pair of more than data.sequence_length = 64 tokens left out"));
  const json line = whole_lines(folder_, "mixed").back();
  EXPECT_FALSE(line.contains("grad_norm_ce"));  // of passes that have none
  const json& drips = line["eval_sets"]["held_out/drips"];
  const json& same = line["eval_sets"]["held_out/same"];
  EXPECT_GT(drips["preference_margin"], 0);
  EXPECT_EQ(same["preference_margin"], 0);  // of equal responses, which no pair is right of
  EXPECT_EQ(same["preference_accuracy"], 0);
  expect_near(same["preference_loss"], std::log(2.0), "loss of equal responses");
  EXPECT_TRUE(std::filesystem::exists(folder_.path() / "mixed/checkpoints/best"));
  run("train job.textproto --out kl --steps 1 --set train.eval_every_steps=1 --set train.keep_best=kl");
}

TEST_F(Preferences, WhatCannotBeIsOneLine) {
  folder_.write("bad.jsonl", pairs() + R"({"prompt": "a", "chosen": "b"})");
  EXPECT_THAT(fails("train job.textproto --out r --set data.text=bad.jsonl"),
              HasSubstr("bad.jsonl:25: rejected is absent"));
  EXPECT_THAT(fails("train job.textproto --out r --set data.sequence_length=32"),
              HasSubstr("each of the 18 training pairs has more than 32 tokens"));
  const std::string some = fails("train job.textproto --out r --set data.sequence_length=40 --set train.steps=0");
  EXPECT_THAT(some, HasSubstr("train.steps is 0"));
  EXPECT_THAT(run("train job.textproto --out r --set data.sequence_length=40 --steps 1").output,
              HasSubstr("of more than data.sequence_length = 40 tokens left out"));
  EXPECT_THAT(fails("train job.textproto --out r2 --set data.format=JSON_LINES"),
              HasSubstr("data.format is another, expected PAIRS"));
  EXPECT_THAT(fails("train start.textproto --out r2 --set data.format=PAIRS"),
              HasSubstr("data.format is PAIRS, expected objective.preference"));
  EXPECT_THAT(fails("distill job.textproto --out r2 --set teacher.source=start"),
              HasSubstr("train learns from preferences"));
  EXPECT_THAT(fails("train job.textproto --out r2 --set model.source= --set data.tokenizer=bytes"),
              HasSubstr("no reference"));
  EXPECT_THAT(fails("train job.textproto --out r2 --set train.cuda_graph=true"),
              HasSubstr("train.cuda_graph is given"));
  EXPECT_THAT(fails("train job.textproto --out r2 --dump-gradients g.h5"), HasSubstr("--dump-gradients is given"));
  EXPECT_THAT(fails("train start.textproto --out r2 --set objective.preference.beta=0"),
              HasSubstr("objective.preference.beta is 0, expected a number above 0"));
  EXPECT_THAT(fails("tokenize pairs.jsonl --format pairs --train --vocab 300 --out t"),
              HasSubstr("a tokenizer is not trained on pairs"));
  run("tokenize pairs.jsonl --format pairs --tokenizer bytes --out tokens");
  run("tokenize text --tokenizer bytes --out plain");
  const std::string tokens = " --set data.text= --set data.format=AUTO --set data.tokens=";
  EXPECT_THAT(fails("train start.textproto --out r2" + tokens + "tokens"),
              HasSubstr("tokens is of pairs, expected objective.preference"));
  EXPECT_THAT(fails("train job.textproto --out r2" + tokens + "plain"), HasSubstr("plain is not of pairs"));
}

}  // namespace
}  // namespace limbeck::testing
