// A short run of `limbeck distill`, by a divergence and hidden states, at a weight and a temperature that change from
// step to step, from a student that is cut from its teacher inexactly, against the same written out
// (tests/support/written_out_run.h): how the student starts, its steps, its figures and the table of them.

#include <gmock/gmock.h>

#include <cmath>
#include <cstdio>
#include <numeric>

#include "core/nn/model_config.h"
#include "core/random.h"
#include "launch/run/model_source.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;

constexpr const char* teacher_job = R"(
model { vocabulary: 264 width: 24 num_layers: 4 num_heads: 4 num_kv_heads: 2 head_width: 8 mlp_width: 20 max_positions: 64 }
data { text: "text" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.35 }
optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 } train { steps: 12 threads: 1 }
)";

constexpr const char* distill_job = R"(
teacher { source: "teacher" }
student_init {
  num_layers: 3 calibration_tokens: 130 report_tokens: 60
  upcycle { slices: 2 experts: 4 experts_per_token: 3 router_std: 0.5 }
}
data { text: "text" sequence_length: 24 held_out_fraction: 0.35 seed: 5 }
objective {
  cross_entropy_weight: 0.3 final_cross_entropy_weight: 0.6 temperature: 2 final_temperature: 3
  divergence: JENSEN_SHANNON mix: 0.3
  hidden_states { weight: 0.7 distance: SQUARED_ERROR }
}
moe_loss { balance_weight: 0.2 z_weight: 0.05 }
optimizer { rate: 5e-3 eps: 1e-5 clip_norm: 0 }
schedule { kind: CONSTANT warmup_steps: 0 }
batch { sequences_per_step: 5 }
train { steps: 2 seed: 11 eval_every_steps: 2 eval_tokens: 120 log_every_steps: 1 threads: 1 }
generation { prompt: "the still" max_tokens: 20 temperature: 2 top_k: 0 top_p: 0.8 seed: 7 }
)";

/// 1 - cosine of a layer's input and output, mean over the tokens.
std::vector<double> influence_of(const std::vector<core::Var>& states) {
  std::vector<double> influence;
  for (std::size_t layer = 0; layer + 1 < states.size(); ++layer) {
    const std::int64_t tokens = states[layer].shape()[0], width = states[layer].shape()[1];
    double sum = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      const double* a = states[layer].value.data<double>() + t * width;
      const double* b = states[layer + 1].value.data<double>() + t * width;
      sum += 1 - std::inner_product(a, a + width, b, 0.0) /
                     std::sqrt(std::inner_product(a, a + width, a, 0.0) * std::inner_product(b, b + width, b, 0.0));
    }
    influence.push_back(sum / static_cast<double>(tokens));
  }
  return influence;
}

/// Takes off a router's rows what they have along the mean of the router's inputs.
void centre_routers(WrittenOut& student, const data::TokenBatch& calibration) {
  core::Tape off(core::Tape::Mode::Off);
  const std::vector<core::Tensor> inputs = student.run(off, calibration).router_inputs;
  for (std::size_t layer = 0; layer < inputs.size(); ++layer) {
    const std::int64_t tokens = inputs[layer].shape()[0], c = inputs[layer].shape()[1];
    const auto* x = inputs[layer].data<double>();
    std::vector<double> mean(static_cast<std::size_t>(c), 0.0);
    for (std::int64_t i = 0; i < tokens * c; ++i)
      mean[static_cast<std::size_t>(i % c)] += x[i] / static_cast<double>(tokens);
    const double length = std::sqrt(std::inner_product(mean.begin(), mean.end(), mean.begin(), 0.0));
    for (double& m : mean) m /= length;
    core::Tensor& router = student.weights().at(fmt::format("layers.{}.moe.router.weight", layer)).value;
    for (std::int64_t e = 0; e < router.shape()[0]; ++e) {
      double* row = router.mutable_data<double>() + e * c;
      const double along = std::inner_product(row, row + c, mean.begin(), 0.0);
      for (std::int64_t i = 0; i < c; ++i) row[i] -= along * mean[static_cast<std::size_t>(i)];
    }
  }
}

/// The teacher's layers, each feed-forward cut into two slices of which there are two copies, times the cube root of 2:
/// three of four experts are no whole number of copies.
WrittenOut cut_student(const WrittenOut& teacher, const Weights& weights, const std::vector<std::int64_t>& layers,
                       const data::TokenBatch& calibration) {
  nn::ModelConfig config = teacher.config();
  const std::int64_t f = config.mlp_width / 2, c = config.width;
  config.num_layers = static_cast<std::int64_t>(layers.size());
  config.moe.num_experts = 4;
  config.moe.experts_per_token = 3;
  config.moe.expert_width = f;
  Weights cut = init_weights(config, 0);
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
  WrittenOut student(config, std::move(cut));
  centre_routers(student, calibration);
  return student;
}

TEST(EndToEnd, DistillingAtATemperatureIsTheLoopWrittenOut) {
  const RunFolder folder("written_out_distill");
  folder.write("teacher.textproto", std::string(teacher_job) + in_float64);
  folder.write("job.textproto", std::string(distill_job) + in_float64);
  ASSERT_EQ(folder.limbeck("train teacher.textproto --out teacher").code, 0);
  const launch::ModelSource source = launch::open_model(folder.path() / "teacher");
  WrittenOut teacher(source.config, read_weights(source.config, *source.reader));
  data::Loader loader(byte_token_file(folder, 0, 5),
                      {.sequence_length = 24, .vocabulary = num_byte_tokens, .seed = 5, .held_out = 0.35});
  const data::TokenBatch held_out = loader.held_out_batch(5);

  core::Tape off(core::Tape::Mode::Off);
  const data::TokenBatch calibration = loader.fetch(0, 5);
  const std::vector<double> influence = influence_of(teacher.run(off, calibration).states);
  std::vector<std::int64_t> layers = {0, 1, 2, 3};
  layers.erase(std::min_element(influence.begin(), influence.end()) - influence.begin() + layers.begin());
  WrittenOut student = cut_student(teacher, teacher.weights(), layers, calibration);
  const nn::SamplingOptions sampling{2, 0, 0.8, 7};
  const Figures before = figures_on(student, &teacher, held_out);
  const Figures on_calibration = figures_on(student, &teacher, loader.fetch(0, 2));
  const std::string said_by_teacher = continuation(teacher, "the still", 20, sampling);
  const std::string said_before = continuation(student, "the still", 20, sampling);
  // Every token with its share of the training text, plus one each.
  core::Tensor unigram = core::Tensor::zeros(core::Memory::cpu(1), core::DType::F64, {5 * 24, 264});
  const std::vector<std::int64_t> counts = loader.unigram_counts();
  for (std::int64_t t = 0; t < 5 * 24; ++t)
    for (std::int64_t v = 0; v < num_byte_tokens; ++v)
      unigram.mutable_data<double>()[t * 264 + v] =
          std::log(static_cast<double>(counts[static_cast<std::size_t>(v)] + 1));
  const core::Tensor theirs = teacher.run(off, held_out).logits.value;
  const Figures of_unigram = figures_of(unigram, &theirs, held_out.targets, num_byte_tokens);

  WrittenOutAdamW adamw{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5};
  std::vector<Step> steps;
  // Behind each layer what the next that was kept reads in the teacher.
  const WrittenOutMatch match{
      .weight = 0.7, .layers = {static_cast<std::size_t>(layers[1] - 1), static_cast<std::size_t>(layers[2] - 1), 3}};
  for (std::int64_t i = 0; i < 2; ++i) {
    const WrittenOutObjective objective{.alpha = i == 0 ? 0.3 : 0.6, .temperature = i == 0 ? 2. : 3., .mix = 0.3};
    steps.push_back(
        step_of(student, &teacher, loader.fetch(5 * i, 5), objective, {.balance = 0.2, .z = 0.05}, "", match));
    adamw.step(
        student.weights(), steps.back().gradients, [](const std::string&) { return 5e-3; },
        [](const std::string& name) { return name.find("norm") == std::string::npos ? 0.1 : 0.0; });
  }
  const Figures after = figures_on(student, &teacher, held_out);
  const std::string said_after = continuation(student, "the still", 20, sampling);

  ASSERT_NE(said_before, said_by_teacher);  // so that each is seen in its place
  ASSERT_NE(said_after, said_before);

  for (const auto& [run, layout] : std::map<std::string, std::string>{
           {"dp2", "dp2"}, {"tp2", "tp2"}, {"sp2", "tp2 --set parallel.sequence_parallel=true"}}) {
    SCOPED_TRACE(run);
    const Outcome outcome = folder.limbeck(
        fmt::format("distill job.textproto --verbose --out {} --set parallel.layout={}", run, layout), 2);
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    const json start = json::parse(folder.read(run + "/start.json")), end = json::parse(folder.read(run + "/end.json"));
    EXPECT_EQ(start["layers"].get<std::vector<std::int64_t>>(), layers);
    ASSERT_EQ(start["influence"].size(), 4U);
    for (std::size_t i = 0; i < 4; ++i) expect_near(start["influence"][i], influence[i], "influence");
    expect_figures(start["student"], before);
    expect_figures(start["calibration"], on_calibration);
    expect_figures(start["unigram"], of_unigram);
    EXPECT_EQ(start["teacher_text"], in_json(said_by_teacher));
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
    for (std::size_t i = 0; i < 2; ++i)
      EXPECT_EQ(outcome
                    .lines_with(fmt::format("step {}/2  loss {:.4f}  kl {:.4f}  top-1 {:.3f}  ce {:.4f}  grad {:.3f}",
                                            i + 1, steps[i].loss, steps[i].figures.kl, steps[i].figures.agreement,
                                            steps[i].figures.ce, steps[i].norm))
                    .size(),
                1U)
          << outcome.output;
    EXPECT_EQ(
        outcome
            .lines_with(fmt::format("before: KL {:.4f}, top-1 agreement {:.3f}, cross-entropy {:.4f} (teacher {:.4f}, "
                                    "unigram KL {:.4f})",
                                    before.kl, before.agreement, before.ce, before.teacher_ce, of_unigram.kl))
            .size(),
        1U)
        << outcome.output;
    // Speed over all steps; memory of the larger rank, of which the record has the first's.
    const std::vector<std::string> speed = outcome.lines_with("tokens/s in training");
    ASSERT_EQ(speed.size(), 1U) << outcome.output;
    double tokens_per_s = 0, gib = 0;
    int ranks = 0;
    ASSERT_EQ(
        std::sscanf(speed[0].c_str(),
                    "%lf tokens/s in training, %*f %% of the machine's measured peak; peak memory %lf GiB a rank, %d",
                    &tokens_per_s, &gib, &ranks),
        3)
        << speed[0];
    const double harmonic =
        2 / (1 / lines[0]["tokens_per_s"].get<double>() + 1 / lines[1]["tokens_per_s"].get<double>());
    EXPECT_NEAR(tokens_per_s, harmonic, 0.51);
    EXPECT_EQ(ranks, 2);
    const double first_rank = lines[1]["rss_bytes"].get<double>() / (1 << 30);
    EXPECT_GE(gib, first_rank - 0.006);
    EXPECT_LE(gib, 1.5 * first_rank + 0.006);
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

  // Measured again, in another process.
  const Outcome eval = folder.limbeck("eval dp2");
  ASSERT_EQ(eval.code, 0) << eval.output;
  for (const auto& [row, value] : std::map<std::string, double>{{"cross-entropy", after.ce},
                                                                {"teacher's cross-entropy", after.teacher_ce},
                                                                {"KL to the teacher, mean", after.kl},
                                                                {"  median", after.kl_median},
                                                                {"  99 %", after.kl_p99},
                                                                {"top-1 agreement", after.agreement},
                                                                {"sum min(p,q)", after.sum_min}}) {
    std::vector<std::string> lines = eval.lines_with(row);
    std::erase_if(lines, [&, &name = row](const std::string& line) { return !line.starts_with(name); });
    ASSERT_EQ(lines.size(), 1U) << row << '\n' << eval.output;
    EXPECT_THAT(lines[0], ::testing::EndsWith(fmt::format("{:12.4f}", value))) << row;
  }

  // Other choices of layers.
  for (const auto& [choice, kept] : std::vector<std::pair<std::string, std::vector<std::int64_t>>>{
           {"LIST --set student_init.num_layers=0 --set student_init.layers=[0,2]", {0, 2}},
           {"EVENLY_SPACED", {0, 2, 3}}}) {
    const std::string run = fmt::format("kept{}", kept.size());
    const Outcome outcome = folder.limbeck(
        fmt::format("distill job.textproto --steps 1 --out {} --set student_init.choice={}", run, choice));
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    const json start = json::parse(folder.read(run + "/start.json"));
    EXPECT_EQ(start["layers"].get<std::vector<std::int64_t>>(), kept);
    expect_figures(start["student"],
                   figures_on(cut_student(teacher, teacher.weights(), kept, calibration), &teacher, held_out));
  }
}

}  // namespace
}  // namespace limbeck::testing
