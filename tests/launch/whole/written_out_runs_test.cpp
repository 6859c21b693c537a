// Short runs of the program, every setting other than its default, against the same runs written out
// (tests/support/written_out.h): the loss, the gradients, the schedule, the optimizer, evaluations, continuations and
// what is left on the disk. In float64, so that only rounding lies between them.

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <deque>
#include <fstream>
#include <numeric>
#include <optional>

#include "core/nn/generation.h"
#include "core/random.h"
#include "data/checkpoints/checkpoint.h"
#include "data/files/hdf5_file.h"
#include "data/text/mixture.h"
#include "launch/run/model_source.h"
#include "optim/optimizer.h"
#include "tests/support/golden_model.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/written_out.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::Figures;
using testing::Outcome;
using testing::RunFolder;
using testing::Weights;
using testing::WrittenOut;

constexpr double tolerance = 1e-9;
constexpr std::int64_t valid = 257;  // bytes, and an end of text

constexpr const char* in_float64 =
    "precision { compute: FLOAT64 master: FLOAT64 gradient: FLOAT64 reduction: FLOAT64 frozen_storage: FLOAT64 }\n";

void expect_near(const json& actual, double expected, const std::string& what) {
  ASSERT_TRUE(actual.is_number()) << what;
  EXPECT_NEAR(actual.get<double>(), expected, tolerance * std::max(1e-2, std::abs(expected))) << what;
}

std::vector<std::int32_t> bytes_of(const std::string& text) {
  std::vector<std::int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

/// The documents text/FIRST.txt to text/LAST.txt, a byte a token.
std::shared_ptr<const data::TokenFile> token_file(const RunFolder& folder, int first, int last) {
  const std::string prefix = (folder.path() / fmt::format("written_{}_{}", first, last)).string();
  data::TokenFileWriter writer(prefix, valid);
  for (int i = first; i <= last; ++i) {
    std::vector<std::int32_t> ids = bytes_of(folder.read(fmt::format("text/{}.txt", i)));
    ids.push_back(256);
    writer.add(ids);
  }
  writer.finish();
  return std::make_shared<data::TokenFile>(prefix);
}

/// A step's loss and gradients, before the optimizer.
struct Step {
  double loss = 0, balance = 0, z = 0, norm = 0;
  Figures figures;
  std::vector<std::vector<double>> load;
  std::map<std::string, std::vector<double>> gradients;
};

Step step_of(WrittenOut& student, const WrittenOut* teacher, const data::TokenBatch& samples,
             const testing::WrittenOutObjective& objective, const nn::RouterTraining& router,
             const std::string& frozen = "") {
  for (auto& [name, weight] : student.weights()) weight.slot = std::make_shared<core::Slot>();
  core::Tape tape, off(core::Tape::Mode::Off);
  const WrittenOut::Pass pass = student.run(tape, samples, router);
  std::optional<core::Tensor> theirs;
  if (teacher) theirs = teacher->run(off, samples).logits.value;
  Step step;
  core::Tensor gradient;
  step.loss = objective.loss(pass.logits.value, theirs ? &*theirs : nullptr, samples.targets, valid, gradient);
  step.figures = testing::figures_of(pass.logits.value, theirs ? &*theirs : nullptr, samples.targets, valid);
  step.load = pass.load;
  core::accumulate(pass.logits.slot, gradient);
  for (const auto& [term, value] : {std::pair{&pass.balance, &step.balance}, std::pair{&pass.z, &step.z}}) {
    if (!term->value.defined()) continue;
    *value = core::host_value(term->value);
    step.loss += *value;
    core::Tensor one = core::zeros_like(term->value);
    *one.mutable_data<double>() = 1;
    core::accumulate(term->slot, one);
  }
  tape.run();
  double squares = 0;
  for (const auto& [name, weight] : student.weights()) {
    if (name == frozen) continue;
    std::vector<double>& g = step.gradients[name];
    g.assign(static_cast<std::size_t>(weight.value.numel()), 0);
    if (weight.slot->has_grad) g = testing::values_of(weight.slot->grad);
    for (const double x : g) squares += x * x;
  }
  step.norm = std::sqrt(squares);
  return step;
}

Figures figures_on(const WrittenOut& model, const WrittenOut* teacher, const data::TokenBatch& samples) {
  core::Tape off(core::Tape::Mode::Off);
  const core::Tensor logits = model.run(off, samples).logits.value;
  if (!teacher) return testing::figures_of(logits, nullptr, samples.targets, valid);
  const core::Tensor theirs = teacher->run(off, samples).logits.value;
  return testing::figures_of(logits, &theirs, samples.targets, valid);
}

/// As JSON keeps it: U+FFFD for what is no UTF-8.
std::string in_json(const std::string& bytes) {
  return json::parse(json(bytes).dump(-1, ' ', false, json::error_handler_t::replace)).get<std::string>();
}

std::string continuation(const WrittenOut& model, const std::string& prompt, std::int64_t max_tokens,
                         const nn::SamplingOptions& sampling) {
  std::vector<std::int32_t> text = bytes_of(prompt);
  std::string said;
  while (static_cast<std::int64_t>(said.size()) < max_tokens) {
    std::vector<double> logits = model.next_logits(text);
    logits.resize(valid);
    const std::int32_t id = nn::sample(logits, sampling, text.size());
    if (id == 256) break;
    text.push_back(id);
    said.push_back(static_cast<char>(id));
  }
  return said;
}

void expect_evaluation(const json& line, const Figures& figures, bool has_teacher) {
  EXPECT_EQ(line["eval_tokens"], figures.tokens);
  expect_near(line["eval_ce"], figures.ce, "eval_ce");
  if (!has_teacher) return;
  expect_near(line["eval_teacher_ce"], figures.teacher_ce, "eval_teacher_ce");
  expect_near(line["eval_kl"], figures.kl, "eval_kl");
  expect_near(line["eval_kl_median"], figures.kl_median, "eval_kl_median");
  expect_near(line["eval_kl_p99"], figures.kl_p99, "eval_kl_p99");
  expect_near(line["eval_top1_agreement"], figures.agreement, "eval_top1_agreement");
  expect_near(line["eval_sum_min"], figures.sum_min, "eval_sum_min");
}

/// Of start.json and end.json.
void expect_figures(const json& evaluation, const Figures& figures) {
  EXPECT_EQ(evaluation["tokens"], figures.tokens);
  expect_near(evaluation["cross_entropy"], figures.ce, "cross_entropy");
  expect_near(evaluation["teacher_cross_entropy"], figures.teacher_ce, "teacher_cross_entropy");
  expect_near(evaluation["kl"], figures.kl, "kl");
  expect_near(evaluation["kl_median"], figures.kl_median, "kl_median");
  expect_near(evaluation["kl_p99"], figures.kl_p99, "kl_p99");
  expect_near(evaluation["agreement"], figures.agreement, "agreement");
  expect_near(evaluation["sum_min"], figures.sum_min, "sum_min");
}

/// A step's line; `first_layer` is the first with experts, the others follow.
void expect_step(const json& line, const Step& step, double rate, std::int64_t tokens, std::int64_t assignments,
                 std::int64_t first_layer, bool has_teacher = false) {
  SCOPED_TRACE("step " + line["step"].dump());
  expect_near(line["loss"], step.loss, "loss");
  expect_near(line["ce"], step.figures.ce, "ce");
  expect_near(line["grad_norm"], step.norm, "grad_norm");
  expect_near(line["balance_loss"], step.balance, "balance_loss");
  expect_near(line["z_loss"], step.z, "z_loss");
  EXPECT_NEAR(line["lr"].get<double>(), rate, 1e-12 * rate);
  EXPECT_EQ(line["tokens"], tokens);
  if (has_teacher) {
    expect_near(line["kl"], step.figures.kl, "kl");
    expect_near(line["teacher_ce"], step.figures.teacher_ce, "teacher_ce");
    expect_near(line["top1_agreement"], step.figures.agreement, "top1_agreement");
  }
  ASSERT_EQ(line["expert_load"].size(), step.load.size());
  for (std::size_t i = 0; i < step.load.size(); ++i) {
    const json& load = line["expert_load"][i];
    EXPECT_EQ(load["layer"], first_layer + static_cast<std::int64_t>(i));
    EXPECT_EQ(load["assignments"].get<std::vector<double>>(), step.load[i]);
    const double taken = std::accumulate(step.load[i].begin(), step.load[i].end(), 0.0);
    EXPECT_EQ(load["drops"], static_cast<double>(assignments) - taken);
    expect_near(load["max"], *std::max_element(step.load[i].begin(), step.load[i].end()) / taken, "max");
    expect_near(load["min"], *std::min_element(step.load[i].begin(), step.load[i].end()) / taken, "min");
  }
}

/// The values of two groups of numbers, each to `tolerance` of its greatest or of a hundredth of the greatest of all.
void expect_same_values(const std::map<std::string, std::vector<double>>& actual,
                        const std::map<std::string, std::vector<double>>& expected) {
  const auto greatest_of = [](const std::vector<double>& values) {
    double greatest = 0;
    for (const double v : values) greatest = std::max(greatest, std::abs(v));
    return greatest;
  };
  double greatest = 0;
  for (const auto& [name, values] : expected) greatest = std::max(greatest, greatest_of(values));
  ASSERT_GT(greatest, 0);
  for (const auto& [name, values] : expected) {
    ASSERT_TRUE(actual.contains(name)) << name;
    ASSERT_EQ(actual.at(name).size(), values.size()) << name;
    double worst = 0;
    for (std::size_t i = 0; i < values.size(); ++i) worst = std::max(worst, std::abs(actual.at(name)[i] - values[i]));
    EXPECT_LE(worst, 10 * tolerance * std::max(greatest_of(values), greatest / 100)) << name;
  }
}

std::map<std::string, std::vector<double>> values_of(const Weights& weights) {
  std::map<std::string, std::vector<double>> values;
  for (const auto& [name, weight] : weights) values[name] = testing::values_of(weight.value);
  return values;
}

/// The model in a run's checkpoint or elsewhere, in float64.
std::map<std::string, std::vector<double>> saved_values(const fs::path& model) {
  const launch::ModelSource source = launch::open_model(model);
  return values_of(testing::read_weights(source.config, *source.reader));
}

/// Tokens a second as the line of its time says; the share of the peak as operations and peak say.
void expect_speed(const Outcome& verbose, const std::vector<json>& lines, double operations, std::int64_t tokens) {
  const std::vector<std::string> said = verbose.lines_with("measured peak of all ranks");
  ASSERT_EQ(said.size(), 1U) << verbose.output;
  double peak = 0;
  ASSERT_EQ(std::sscanf(said[0].substr(said[0].find("measured")).c_str(), "measured peak of all ranks: %lf", &peak), 1);
  for (const json& line : lines) {
    const double speed = line["tokens_per_s"];
    EXPECT_NEAR(line["mfu"].get<double>() * peak * 1e9 / speed, operations, 0.01 * operations);
    const std::string what = fmt::format("step {}: ", line["step"].get<std::int64_t>());
    const std::vector<std::string> times = verbose.lines_with(what);
    const auto found = std::find_if(times.begin(), times.end(),
                                    [](const std::string& t) { return t.find("passes and reductions") < t.size(); });
    ASSERT_NE(found, times.end()) << verbose.output;
    double ms = 0;
    ASSERT_EQ(std::sscanf(found->c_str() + found->find(what) + what.size(), "%lf", &ms), 1) << *found;
    EXPECT_NEAR(1e3 * static_cast<double>(tokens) / speed, ms, 0.06) << *found;
  }
}

std::vector<json> whole_lines(const RunFolder& folder, const std::string& run) {
  std::vector<json> lines;
  std::istringstream in(folder.read(run + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

constexpr const char* first_job = R"(
model {
  vocabulary: 264 width: 24 num_layers: 3 num_heads: 4 num_kv_heads: 2 head_width: 8 mlp_width: 20 max_positions: 64
  norm_eps: 1e-3 rope_base: 200 tied_head: true
  moe {
    num_experts: 4 experts_per_token: 2 expert_width: 12 renormalise: false weight_scale: 1.5 dense_layers: 0
    shared_width: 10
  }
}
data { text: "text" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.35 seed: 5 }
moe_loss { balance_weight: 0.2 z_weight: 0.05 }
routing { capacity_factor: 1.1 jitter: 0.2 }
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
                        .max_positions = 64,
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
               .dense_layers = {0}};
  data::Loader loader(token_file(folder, 0, 5),
                      {.sequence_length = 24, .vocabulary = valid, .seed = 5, .held_out = 0.35});
  const data::TokenBatch held_out = loader.held_out_batch(3);
  WrittenOut student(model, testing::init_weights(model, 11));
  testing::WrittenOutAdamW adamw{.beta1 = 0.8, .beta2 = 0.9, .eps = 1e-5};
  std::vector<Step> steps;
  std::vector<double> rates;
  std::map<std::size_t, Figures> evaluations;
  for (std::size_t i = 0; i < 6; ++i) {
    const auto at = static_cast<double>(i + 1);
    rates.push_back(5e-3 * (at <= 3 ? at / 3 : 0.25 + 0.75 * (8 - at) / 5));
    Step step = step_of(student, nullptr, loader.fetch(5 * static_cast<std::int64_t>(i), 5), {},
                        {.balance = 0.2, .z = 0.05, .capacity_factor = 1.1, .jitter = 0.2, .seed = 11, .step = i},
                        "norm.weight");
    ASSERT_GT(step.norm, 0.1);  // it is clipped
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
      return testing::values_of(dump.read_dataset(path, core::Memory::cpu(1), core::DType::F64));
    };
    for (const auto& [name, g] : steps[5].gradients) gradients[name] = values(data::hdf5_path("/gradients", name));
    EXPECT_FALSE(dump.contains("/gradients/norm/weight"));
    expect_same_values(gradients, steps[5].gradients);
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
}

constexpr const char* second_job = R"(
model {
  width: 16 num_layers: 2 num_heads: 2 mlp_width: 20 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 12 }
}
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
  folder.write("job.textproto", std::string(second_job) + in_float64);
  nn::ModelConfig model{.vocabulary = valid,
                        .width = 16,
                        .num_layers = 2,
                        .num_heads = 2,
                        .num_kv_heads = 2,
                        .head_width = 8,
                        .mlp_width = 20,
                        .max_positions = 64,
                        .moe = {}};
  model.moe.num_experts = 4;
  model.moe.experts_per_token = 2;
  model.moe.expert_width = 12;
  data::Mixture mixture({{token_file(folder, 0, 2), 3}, {token_file(folder, 3, 5), 1}},
                        {.sequence_length = 24, .vocabulary = valid, .seed = 5, .held_out = 0.35});
  const data::TokenBatch held_out = mixture.held_out_batch(4);
  WrittenOut student(model, testing::init_weights(model, 3));
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

constexpr const char* teacher_job = R"(
model { vocabulary: 264 width: 24 num_layers: 4 num_heads: 4 num_kv_heads: 2 head_width: 8 mlp_width: 20 max_positions: 64 }
data { text: "text" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.35 }
optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 } train { steps: 12 threads: 1 }
)";

constexpr const char* distill_job = R"(
teacher { source: "teacher" }
student_init {
  num_layers: 3 calibration_tokens: 130
  upcycle { slices: 2 experts: 4 experts_per_token: 3 router_std: 0.5 }
}
data { text: "text" sequence_length: 24 held_out_fraction: 0.35 seed: 5 }
objective { cross_entropy_weight: 0.3 temperature: 2 }
moe_loss { balance_weight: 0.2 z_weight: 0.05 }
optimizer { rate: 5e-3 eps: 1e-5 clip_norm: 0 }
schedule { kind: CONSTANT warmup_steps: 0 }
batch { sequences_per_step: 5 }
train { steps: 2 seed: 11 eval_every_steps: 2 eval_tokens: 120 log_every_steps: 1 threads: 1 }
generation { prompt: "the still" max_tokens: 9 temperature: 0.7 top_k: 0 top_p: 0.8 seed: 7 }
)";

/// 1 - cosine of a layer's input and output, mean over the tokens.
std::vector<double> influence_of(const std::vector<core::Tensor>& states) {
  std::vector<double> influence;
  for (std::size_t layer = 0; layer + 1 < states.size(); ++layer) {
    const std::int64_t tokens = states[layer].shape()[0], width = states[layer].shape()[1];
    double sum = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      const double* a = states[layer].data<double>() + t * width;
      const double* b = states[layer + 1].data<double>() + t * width;
      sum += 1 - std::inner_product(a, a + width, b, 0.0) /
                     std::sqrt(std::inner_product(a, a + width, a, 0.0) * std::inner_product(b, b + width, b, 0.0));
    }
    influence.push_back(sum / static_cast<double>(tokens));
  }
  return influence;
}

/// The teacher's layers, each feed-forward cut into two slices of which there are two copies, times the cube root of 2:
/// three of four experts are no whole number of copies.
WrittenOut cut_student(const WrittenOut& teacher, const Weights& weights, const std::vector<std::int64_t>& layers) {
  nn::ModelConfig config = teacher.config();
  const std::int64_t f = config.mlp_width / 2, c = config.width;
  config.num_layers = static_cast<std::int64_t>(layers.size());
  config.moe.num_experts = 4;
  config.moe.experts_per_token = 3;
  config.moe.expert_width = f;
  Weights cut = testing::init_weights(config, 0);
  for (auto& [name, weight] : cut) {
    std::string origin = name;
    if (name.starts_with("layers.")) {
      const std::size_t rest = name.find('.', 7);
      origin = fmt::format("layers.{}{}", layers[std::stoul(name.substr(7, rest - 7))], name.substr(rest));
    }
    double* to = weight.value.mutable_data<double>();
    const auto moe = origin.find("moe.");
    if (moe == std::string::npos) {
      weight.value.copy_from(weights.at(origin).value);
    } else if (origin.ends_with("router.weight")) {
      const core::RandomStream random(11, 0, name);
      for (std::int64_t i = 0; i < 4 * c; ++i)  // a row a copy
        to[i] = 0.5 * random.normal(static_cast<std::uint64_t>(i / c % 2 * c + i % c));
    } else {
      const bool is_down = origin.ends_with("down");
      const core::Tensor& dense =
          weights.at(origin.substr(0, moe) + "mlp." + origin.substr(origin.rfind('.') + 1) + ".weight").value;
      for (std::int64_t e = 0; e < 4; ++e)
        for (std::int64_t i = 0; i < f * c; ++i) {
          const std::int64_t slice = e / 2;  // of down a range of columns, of the others one of rows
          const std::int64_t from = is_down ? i / f * 2 * f + slice * f + i % f : slice * f * c + i;
          to[e * f * c + i] = std::cbrt(2.0) * dense.data<double>()[from];
        }
    }
  }
  return {config, std::move(cut)};
}

TEST(EndToEnd, DistillingAtATemperatureIsTheLoopWrittenOut) {
  const RunFolder folder("written_out_distill");
  folder.write("teacher.textproto", std::string(teacher_job) + in_float64);
  folder.write("job.textproto", std::string(distill_job) + in_float64);
  ASSERT_EQ(folder.limbeck("train teacher.textproto --out teacher").code, 0);
  const launch::ModelSource source = launch::open_model(folder.path() / "teacher");
  WrittenOut teacher(source.config, testing::read_weights(source.config, *source.reader));
  data::Loader loader(token_file(folder, 0, 5),
                      {.sequence_length = 24, .vocabulary = valid, .seed = 5, .held_out = 0.35});
  const data::TokenBatch held_out = loader.held_out_batch(5);

  core::Tape off(core::Tape::Mode::Off);
  const std::vector<double> influence = influence_of(teacher.run(off, loader.fetch(0, 5)).states);
  std::vector<std::int64_t> layers = {0, 1, 2, 3};
  layers.erase(std::min_element(influence.begin(), influence.end()) - influence.begin() + layers.begin());
  WrittenOut student = cut_student(teacher, teacher.weights(), layers);
  const nn::SamplingOptions sampling{0.7, 0, 0.8, 7};
  const Figures before = figures_on(student, &teacher, held_out);
  const std::string said_before = continuation(student, "the still", 9, sampling);
  // Every token with its share of the training text, plus one each.
  core::Tensor unigram = core::Tensor::zeros(core::Memory::cpu(1), core::DType::F64, {5 * 24, 264});
  const std::vector<std::int64_t> counts = loader.unigram_counts();
  for (std::int64_t t = 0; t < 5 * 24; ++t)
    for (std::int64_t v = 0; v < valid; ++v)
      unigram.mutable_data<double>()[t * 264 + v] =
          std::log(static_cast<double>(counts[static_cast<std::size_t>(v)] + 1));
  const core::Tensor theirs = teacher.run(off, held_out).logits.value;
  const Figures of_unigram = testing::figures_of(unigram, &theirs, held_out.targets, valid);

  testing::WrittenOutAdamW adamw{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5};
  std::vector<Step> steps;
  for (std::int64_t i = 0; i < 2; ++i) {
    steps.push_back(step_of(student, &teacher, loader.fetch(5 * i, 5), {.alpha = 0.3, .temperature = 2},
                            {.balance = 0.2, .z = 0.05}));
    adamw.step(
        student.weights(), steps.back().gradients, [](const std::string&) { return 5e-3; },
        [](const std::string& name) { return name.find("norm") == std::string::npos ? 0.1 : 0.0; });
  }
  const Figures after = figures_on(student, &teacher, held_out);
  const std::string said_after = continuation(student, "the still", 9, sampling);

  for (const char* layout : {"dp2", "tp2"}) {
    SCOPED_TRACE(layout);
    const std::string run = layout;
    const Outcome outcome =
        folder.limbeck(fmt::format("distill job.textproto --verbose --out {0} --set parallel.layout={0}", layout), 2);
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    const json start = json::parse(folder.read(run + "/start.json")), end = json::parse(folder.read(run + "/end.json"));
    EXPECT_EQ(start["layers"].get<std::vector<std::int64_t>>(), layers);
    ASSERT_EQ(start["influence"].size(), 4U);
    for (std::size_t i = 0; i < 4; ++i) expect_near(start["influence"][i], influence[i], "influence");
    expect_figures(start["student"], before);
    expect_figures(start["unigram"], of_unigram);
    EXPECT_EQ(start["teacher_text"], in_json(continuation(teacher, "the still", 9, sampling)));
    EXPECT_EQ(start["student_text"], in_json(said_before));
    expect_figures(end["student"], after);
    EXPECT_EQ(end["student_text"], in_json(said_after));
    const std::vector<json> lines = whole_lines(folder, run);
    ASSERT_EQ(lines.size(), 2U);
    for (std::size_t i = 0; i < 2; ++i)
      expect_step(lines[i], steps[i], 5e-3, 5 * 24 * static_cast<std::int64_t>(i + 1), 5 * 24 * 3, 0, true);
    EXPECT_FALSE(lines[0].contains("eval_kl"));
    expect_evaluation(lines[1], after, true);
    expect_same_values(saved_values(folder.path() / run), values_of(student.weights()));
    expect_speed(outcome, lines,
                 nn::training_flops_per_token(student.config(), 24) + nn::forward_flops_per_token(teacher.config(), 24),
                 5 * 24);
    // The table shows them in their columns.
    const auto shown = [&](const std::string& row, double a, double b, double c) {
      const std::vector<std::string> found = outcome.lines_with(row);
      ASSERT_FALSE(found.empty()) << outcome.output;
      EXPECT_THAT(found.back(), ::testing::EndsWith(fmt::format("{:12.4f}{:12.4f}{:12.4f}", a, b, c)));
    };
    shown("cross-entropy", before.ce, after.ce, of_unigram.ce);
    shown("KL to the teacher, mean", before.kl, after.kl, of_unigram.kl);
    shown("  median", before.kl_median, after.kl_median, of_unigram.kl_median);
    shown("  99 %", before.kl_p99, after.kl_p99, of_unigram.kl_p99);
    shown("top-1 agreement  ", before.agreement, after.agreement, of_unigram.agreement);
    shown("sum min(p,q)", before.sum_min, after.sum_min, of_unigram.sum_min);
  }
}

}  // namespace
}  // namespace limbeck
