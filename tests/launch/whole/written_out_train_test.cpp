// Short runs of `limbeck train`, every setting other than its default, against the same runs written out
// (tests/support/written_out_run.h): the loss, the gradients, the schedule, the optimizer, evaluations, continuations
// and what is left on the disk. In float64, so that only rounding lies between them.

#include <gmock/gmock.h>

#include <cmath>
#include <deque>
#include <numeric>

#include "core/nn/model_config.h"
#include "data/files/hdf5_file.h"
#include "data/text/mixture.h"
#include "launch/run/model_source.h"
#include "optim/optimizer.h"
#include "tests/support/golden_model.h"
#include "tests/support/small_model.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* first_job = R"(
model {
  vocabulary: 264 width: 24 num_layers: 3 num_heads: 4 num_kv_heads: 2 head_width: 8 mlp_width: 20 max_positions: 320
  norm_eps: 1e-3 rope_base: 200 tied_head: true
  moe {
    num_experts: 4 experts_per_token: 2 expert_width: 12 renormalise: false weight_scale: 1.5 dense_layers: 0
    shared_width: 10 scores: SIGMOID selection_bias: true
  }
}
data { text: "text" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.35 seed: 5 }
moe_loss { balance_weight: 0.2 z_weight: 0.05 }
routing { capacity_factor: 1.1 jitter: 0.2 bias_rate: 0.007 }
optimizer {
  rate: 5e-3 beta1: 0.8 beta2: 0.9 eps: 1e-5 weight_decay: 0.3 clip_norm: 0.1
  groups { pattern: "layers.1.*" rate_factor: 0.5 weight_decay: 0.7 } groups { pattern: "norm.weight" frozen: true }
}
schedule { kind: LINEAR warmup_steps: 3 final_rate_fraction: 0.25 }
batch { sequences_per_step: 5 micro_batches: 2 }
train {
  steps: 8 seed: 11 recompute: true checkpoint_every_steps: 2 keep_checkpoints: 1 eval_every_steps: 3 eval_tokens: 80
  log_every_steps: 1 threads: 1
}
parallel { bucket_mib: 0.01 }
generation { prompt: "the still" max_tokens: 9 temperature: 1.3 top_k: 30 top_p: 0.9 seed: 7 }
)";

TEST(EndToEnd, SixStepsAreThoseOfTheLoopWrittenOut) {
  const RunFolder folder("written_out");
  folder.write("job.textproto", std::string(first_job) + in_float64);
  nn::ModelConfig model{.vocabulary = 264,
                        .width = 24,
                        .num_layers = 3,
                        .num_heads = 4,
                        .num_kv_heads = 2,
                        .head_width = 8,
                        .mlp_width = 20,
                        .max_positions = 320,
                        .norm_eps = 1e-3,
                        .rope_base = 200,
                        .tied_head = true,
                        .moe = {}};
  model.moe = {.num_experts = 4,
               .experts_per_token = 2,
               .expert_width = 12,
               .renormalise = false,
               .weight_scale = 1.5,
               .shared_width = 10,
               .dense_layers = {0},
               .scores = nn::RouterScores::Sigmoid,
               .selection_bias = true};
  data::Loader loader(byte_token_file(folder, 0, 5),
                      {.sequence_length = 24, .vocabulary = num_byte_tokens, .seed = 5, .held_out = 0.35});
  const data::TokenBatch held_out = loader.held_out_batch(3);
  WrittenOut student(model, init_weights(model, 11));
  WrittenOutAdamW adamw{.beta1 = 0.8, .beta2 = 0.9, .eps = 1e-5};
  std::vector<Step> steps;
  std::vector<double> rates;
  std::map<std::string, std::vector<double>> before;  // the last step
  std::map<std::size_t, Figures> evaluations;
  for (std::size_t i = 0; i < 6; ++i) {
    const auto at = static_cast<double>(i + 1);
    rates.push_back(5e-3 * (at <= 3 ? at / 3 : 0.25 + 0.75 * (8 - at) / 5));
    Step step = step_of(student, nullptr, loader.fetch(5 * static_cast<std::int64_t>(i), 5), {},
                        {.balance = 0.2, .z = 0.05, .capacity_factor = 1.1, .jitter = 0.2, .seed = 11, .step = i},
                        "norm.weight");
    ASSERT_GT(step.norm, 0.1);  // it is clipped
    before = values_of(student.weights());
    std::map<std::string, std::vector<double>> clipped = step.gradients;
    for (auto& [name, g] : clipped)
      for (double& x : g) x *= 0.1 / step.norm;
    adamw.step(
        student.weights(), clipped,
        [&](const std::string& name) { return rates.back() * (name.starts_with("layers.1.") ? 0.5 : 1); },
        [](const std::string& name) {
          if (name.find("norm") != std::string::npos) return 0.0;
          return name.starts_with("layers.1.") ? 0.7 : 0.3;
        });
    for (std::size_t layer = 0; layer < 2; ++layer) {  // those with experts
      const std::vector<double>& load = step.load[layer];
      double* bias =
          student.weights().at(fmt::format("layers.{}.moe.router.selection_bias", layer + 1)).value.mutable_data<double>();
      const double mean = std::accumulate(load.begin(), load.end(), 0.0) / 4;
      for (std::size_t e = 0; e < 4; ++e) bias[e] += load[e] < mean ? 0.007 : load[e] > mean ? -0.007 : 0;
    }
    steps.push_back(std::move(step));
    if (i % 3 == 2) evaluations[i] = figures_on(student, nullptr, held_out);
  }
  double drops = 0;  // the capacity is of effect
  for (const Step& step : steps) drops += 2 * 5 * 24 - std::accumulate(step.load[0].begin(), step.load[0].end(), 0.0);
  ASSERT_GT(drops, 0);
  const std::string said = continuation(student, "the still", 9, {1.3, 30, 0.9, 7});

  for (const auto& [layout, ranks] : {std::pair{"dp1", 1}, std::pair{"tp2", 2}}) {
    SCOPED_TRACE(layout);
    const std::string run = layout;
    const Outcome outcome = folder.limbeck(
        fmt::format(
            "train job.textproto --verbose --steps 6 --out {0} --set parallel.layout={0} --dump-gradients {0}.h5",
            layout),
        ranks);
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    const std::vector<json> lines = whole_lines(folder, run);
    ASSERT_EQ(lines.size(), 6U);
    for (std::size_t i = 0; i < 6; ++i) {
      expect_step(lines[i], steps[i], rates[i], 5 * 24 * static_cast<std::int64_t>(i + 1), 5 * 24 * 2, 1);
      ASSERT_EQ(lines[i].contains("eval_ce"), evaluations.contains(i)) << i;
      if (evaluations.contains(i)) expect_evaluation(lines[i], evaluations[i], false);
    }
    expect_speed(outcome, lines, nn::training_flops_per_token(model, 24), 5 * 24);
    EXPECT_EQ(outcome
                  .lines_with(fmt::format("text: {} training tokens in {} documents", loader.tokens_per_epoch(),
                                          loader.train_documents().size()))
                  .size(),
              1U)
        << outcome.output;
    EXPECT_EQ(
        outcome
            .lines_with(fmt::format("ranks: {}, layout {}; threads a rank: 1; cores of this machine: ", ranks, layout))
            .size(),
        1U)
        << outcome.output;
    for (const std::size_t i : {0U, 5U})  // a log has no line of each
      EXPECT_EQ(outcome
                    .lines_with(fmt::format("step {}/6  loss {:.4f}  ce {:.4f}  grad {:.3f}  tokens/s", i + 1,
                                            steps[i].loss, steps[i].figures.ce, steps[i].norm))
                    .size(),
                1U)
          << outcome.output;

    // What is left: the last weights, one checkpoint, where the run stood, the dump of the last step, the end.
    expect_same_values(saved_values(folder.path() / run), values_of(student.weights()));
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path() / run / "checkpoints"), fs::directory_iterator()), 1);
    const json trainer = launch::open_model(folder.path() / run / "checkpoints/step_6").trainer;
    EXPECT_EQ(trainer["step"], 6);
    EXPECT_EQ(trainer["next_sample"], 30);
    EXPECT_EQ(trainer["tokens"], 6 * 5 * 24);
    const data::Hdf5File dump = data::Hdf5File::open(folder.path() / (run + ".h5"));
    std::map<std::string, std::vector<double>> gradients;
    const auto values = [&](const std::string& path) {
      return values_of(dump.read_dataset(path, core::Memory::cpu(1), core::DType::F64));
    };
    for (const auto& [name, g] : steps[5].gradients) gradients[name] = values(data::hdf5_path("/gradients", name));
    EXPECT_FALSE(dump.contains("/gradients/norm/weight"));
    expect_same_values(gradients, steps[5].gradients);
    std::map<std::string, std::vector<double>> parameters;
    for (const auto& [name, value] : before) parameters[name] = values(data::hdf5_path("/parameters", name));
    expect_same_values(parameters, before);
    for (const auto& [name, value] : std::map<std::string, std::int64_t>{{"vocabulary", 264},
                                                                         {"valid_vocabulary", 257},
                                                                         {"num_kv_heads", 2},
                                                                         {"experts_per_token", 2},
                                                                         {"shared_width", 10},
                                                                         {"renormalise", 0},
                                                                         {"tied_head", 1},
                                                                         {"global_balance", 0},
                                                                         {"seed", 11}})
      EXPECT_EQ(std::get<std::int64_t>(dump.attribute("/", name)), value) << name;
    for (const auto& [name, value] : std::map<std::string, double>{{"norm_eps", 1e-3},
                                                                   {"rope_base", 200},
                                                                   {"balance_weight", 0.2},
                                                                   {"z_weight", 0.05},
                                                                   {"capacity_factor", 1.1},
                                                                   {"jitter", 0.2}})
      EXPECT_EQ(std::get<double>(dump.attribute("/", name)), value) << name;
    const data::TokenBatch last = loader.fetch(25, 5);
    EXPECT_EQ(values("/tokens"), std::vector<double>(last.tokens.begin(), last.tokens.end()));
    EXPECT_EQ(values("/targets"), std::vector<double>(last.targets.begin(), last.targets.end()));
    expect_near(values("/loss/total")[0], steps[5].loss, "/loss/total");
    expect_near(values("/loss/ce")[0], steps[5].figures.ce, "/loss/ce");
    expect_near(values("/loss/balance")[0], steps[5].balance / 0.2, "/loss/balance");
    expect_near(values("/loss/z")[0], steps[5].z / 0.05, "/loss/z");
    const json end = json::parse(folder.read(run + "/end.json"));
    EXPECT_EQ(end["step"], 6);
    expect_figures(end["student"], evaluations[5]);
    EXPECT_EQ(end["student_text"], in_json(said));
  }

  // Logits of a text of more tokens than are written at once; in float32.
  std::vector<std::int32_t> text;
  std::string ids;
  for (const char c : folder.read("text/0.txt").substr(0, 300)) {
    text.push_back(static_cast<unsigned char>(c));
    ids += fmt::format("{} ", text.back());
  }
  folder.write("ids.txt", ids);
  core::Tape off(core::Tape::Mode::Off);
  const std::vector<double> logits = values_of(student.run(off, as_sequence(text)).logits.value);
  for (const int ranks : {1, 2}) {
    const Outcome eval = folder.limbeck("eval dp1 --tokens ids.txt --logits logits.h5 --force", ranks);
    ASSERT_EQ(eval.code, 0) << eval.output;
    const std::vector<double> found = values_of(data::Hdf5File::open(folder.path() / "logits.h5")
                                                    .read_dataset("/logits", core::Memory::cpu(1), core::DType::F64));
    ASSERT_EQ(found.size(), logits.size());
    double worst = 0, greatest = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      worst = std::max(worst, std::abs(found[i] - logits[i]));
      greatest = std::max(greatest, std::abs(logits[i]));
    }
    EXPECT_LE(worst, 1e-4 * greatest) << ranks;
  }

  // The command says what the run said, and other settings what they mean; both in float32.
  const Outcome again = folder.limbeck(
      "generate dp1 --prompt 'the still' --max-tokens 9 --temperature 1.3 --top-k 30 --top-p 0.9 --seed 7 --quiet");
  EXPECT_EQ(again.output, in_json("the still" + said + "\n"));
  const Outcome wild = folder.limbeck(
      "generate dp1 --prompt 'the still' --max-tokens 40 --temperature 30 --top-k 0 --top-p 1 --seed 8 --quiet");
  EXPECT_EQ(wild.output, in_json("the still" + continuation(student, "the still", 40, {30, 0, 1, 8}) + "\n"));
}

constexpr const char* second_job = R"(
data {
  sources { text: "text/0.txt" text: "text/1.txt" text: "text/2.txt" weight: 0.75 }
  sources { text: "text/3.txt" text: "text/4.txt" text: "text/5.txt" weight: 0.25 }
  tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.35 seed: 5
}
moe_loss { balance_weight: 0.3 z_weight: 0 balance_scope: GLOBAL_BATCH }
optimizer {
  kind: MUON rate: 4e-3 momentum: 0.8 beta1: 0.8 beta2: 0.9 eps: 1e-5 weight_decay: 0.2 clip_norm: 0
  adamw_rate_factor: 0.3 groups { pattern: "*.attention.o.*" weight_decay: 0.4 adamw: true }
}
schedule { kind: WARMUP_STABLE_DECAY warmup_steps: 1 decay_fraction: 0.75 decay: COSINE_DECAY final_rate_fraction: 0.2 }
batch { sequences_per_step: 6 }
train { steps: 4 seed: 3 eval_every_steps: 2 eval_tokens: 96 log_every_steps: 1 threads: 1 }
)";

TEST(EndToEnd, AMixtureUnderMuonIsTheLoopWrittenOut) {
  const RunFolder folder("written_out_muon");
  folder.write("job.textproto", small_mixture + second_job + in_float64);
  const nn::ModelConfig model = small_model(num_byte_tokens, 4);
  data::Mixture mixture({{byte_token_file(folder, 0, 2), 3}, {byte_token_file(folder, 3, 5), 1}},
                        {.sequence_length = 24, .vocabulary = num_byte_tokens, .seed = 5, .held_out = 0.35});
  const data::TokenBatch held_out = mixture.held_out_batch(4);
  WrittenOut student(model, init_weights(model, 3));
  std::deque<core::Parameter> parameters;
  std::vector<optim::Trained> trained;
  for (const auto& [name, weight] : student.weights()) {
    core::Parameter& p = parameters.emplace_back();
    p.name = name;
    p.global_shape = weight.shape();
    p.value = weight.value;
    p.slot = std::make_shared<core::Slot>();
    p.slot->parameter = &p;
    p.decays = weight.shape().rank() > 1;
    optim::Group group;
    if (name.find(".attention.o.") != std::string::npos) group = {.pattern = "", .weight_decay = 0.4, .adamw = true};
    trained.push_back({&p, group});
  }
  optim::Optimizer optimizer(trained, {.uses_muon = true,
                                       .adamw = {.beta1 = 0.8, .beta2 = 0.9, .eps = 1e-5, .weight_decay = 0.2},
                                       .muon = {.momentum = 0.8, .weight_decay = 0.2},
                                       .adamw_rate_factor = 0.3});
  std::vector<Step> steps;
  const std::vector<double> rates = {4e-3, 4e-3 * (0.2 + 0.8 * 0.75), 4e-3 * (0.2 + 0.8 * 0.25), 4e-3 * 0.2};
  std::map<std::size_t, Figures> evaluations;
  for (std::size_t i = 0; i < 4; ++i) {
    steps.push_back(step_of(student, nullptr, mixture.fetch(6 * static_cast<std::int64_t>(i), 6), {},
                            {.balance = 0.3, .balance_scope = nn::BalanceScope::GlobalBatch}));
    for (core::Parameter& p : parameters) {
      p.slot->grad = core::Tensor::from<double>(p.value.memory(), p.global_shape, steps[i].gradients.at(p.name));
      p.slot->has_grad = true;
    }
    optimizer.step(rates[i]);
    if (i % 2 == 1) evaluations[i] = figures_on(student, nullptr, held_out);
  }
  const Outcome outcome = folder.limbeck("train job.textproto --out run --set parallel.layout=dp2", 2);
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  const std::vector<json> lines = folder.metrics("run");
  ASSERT_EQ(lines.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) {
    expect_step(lines[i], steps[i], rates[i], 6 * 24 * static_cast<std::int64_t>(i + 1), 6 * 24 * 2, 0);
    ASSERT_EQ(lines[i].contains("eval_ce"), evaluations.contains(i)) << i;
    if (evaluations.contains(i)) expect_evaluation(lines[i], evaluations[i], false);
  }
  expect_same_values(saved_values(folder.path() / "run"), values_of(student.weights()));
}

}  // namespace
}  // namespace limbeck::testing
