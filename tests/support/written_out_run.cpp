#include "tests/support/written_out_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <optional>
#include <sstream>

#include "launch/run/model_source.h"
#include "tests/support/golden_model.h"

namespace limbeck::testing {

namespace fs = std::filesystem;
using nlohmann::json;

void expect_near(const json& actual, double expected, const std::string& what) {
  ASSERT_TRUE(actual.is_number()) << what;
  EXPECT_NEAR(actual.get<double>(), expected, run_tolerance * std::max(1e-2, std::abs(expected))) << what;
}

namespace {

std::vector<std::int32_t> bytes_of(const std::string& text) {
  std::vector<std::int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

}  // namespace

std::shared_ptr<const data::TokenFile> byte_token_file(const RunFolder& folder, int first, int last) {
  const std::string prefix = (folder.path() / fmt::format("written_{}_{}", first, last)).string();
  data::TokenFileWriter writer(prefix, num_byte_tokens);
  for (int i = first; i <= last; ++i) {
    std::vector<std::int32_t> ids = bytes_of(folder.read(fmt::format("text/{}.txt", i)));
    ids.push_back(256);
    writer.add(ids);
  }
  writer.finish();
  return std::make_shared<data::TokenFile>(prefix);
}

Step step_of(WrittenOut& student, const WrittenOut* teacher, const data::TokenBatch& samples,
             const WrittenOutObjective& objective, const nn::RouterTraining& router, const std::string& frozen,
             const WrittenOutMatch& match) {
  const auto loss = [&](const core::Tensor& logits, const core::Tensor* theirs, core::Tensor& gradient) {
    return objective.loss(logits, theirs, samples.targets, num_byte_tokens, gradient);
  };
  return step_by(student, teacher, samples, loss, router, frozen, match);
}

Step step_by(WrittenOut& student, const WrittenOut* teacher, const data::TokenBatch& samples, const LossOfLogits& loss,
             const nn::RouterTraining& router, const std::string& frozen, const WrittenOutMatch& match) {
  for (auto& [name, weight] : student.weights()) weight.slot = std::make_shared<core::Slot>();
  core::Tape tape, off(core::Tape::Mode::Off);
  const WrittenOut::Pass pass = student.run(tape, samples, router);
  std::optional<core::Tensor> theirs;
  Step step;
  if (teacher) {
    const WrittenOut::Pass taught = teacher->run(off, samples);
    theirs = taught.logits.value;
    step.hidden = match.loss(pass, taught, samples.targets);
  }
  core::Tensor gradient;
  step.loss = loss(pass.logits.value, theirs ? &*theirs : nullptr, gradient);
  step.loss += step.hidden;
  step.figures = figures_of(pass.logits.value, theirs ? &*theirs : nullptr, samples.targets, num_byte_tokens);
  step.load = pass.load;
  step.untaken = pass.untaken;
  step.balance_norm = std::sqrt(pass.balance_square);
  step.z_norm = std::sqrt(pass.z_square);
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
    if (name == frozen || name.ends_with(".router.selection_bias")) continue;
    std::vector<double>& g = step.gradients[name];
    g.assign(static_cast<std::size_t>(weight.value.numel()), 0);
    if (weight.slot->has_grad) g = values_of(weight.slot->grad);
    for (const double x : g) squares += x * x;
  }
  step.norm = std::sqrt(squares);
  return step;
}

Figures figures_on(const WrittenOut& model, const WrittenOut* teacher, const data::TokenBatch& samples) {
  core::Tape off(core::Tape::Mode::Off);
  const WrittenOut::Pass pass = model.run(off, samples);
  std::optional<core::Tensor> theirs;
  if (teacher) theirs = teacher->run(off, samples).logits.value;
  Figures figures = figures_of(pass.logits.value, theirs ? &*theirs : nullptr, samples.targets, num_byte_tokens);
  figures.load = pass.load;
  return figures;
}

std::string in_json(const std::string& bytes) {
  return json::parse(json(bytes).dump(-1, ' ', false, json::error_handler_t::replace)).get<std::string>();
}

std::string continuation(const WrittenOut& model, const std::string& prompt, std::int64_t max_tokens,
                         nn::SamplingOptions sampling) {
  std::vector<std::int32_t> text = bytes_of(prompt);
  sampling.text = nn::key_of_text(text);
  std::string said;
  while (static_cast<std::int64_t>(said.size()) < max_tokens) {
    std::vector<double> logits = model.next_logits(text);
    logits.resize(num_byte_tokens);
    const std::int32_t id = nn::sample(logits, sampling, text.size());
    if (id == 256) break;
    text.push_back(id);
    said.push_back(static_cast<char>(id));
  }
  return said;
}

namespace {

/// Entropies and starved experts (below a twentieth of an even share) by their definitions.
struct Load {
  std::vector<double> entropies;  // by layer, of 1 for an even load
  int starved = 0;
};

Load load_of(const Figures& figures) {
  Load load;
  for (const std::vector<double>& experts : figures.load) {
    double all = 0, nats = 0;
    for (const double n : experts) all += n;
    for (const double n : experts) {
      if (n > 0) nats += n / all * std::log(all / n);
      if (20 * n * static_cast<double>(experts.size()) < all) ++load.starved;
    }
    load.entropies.push_back(nats / std::log(static_cast<double>(experts.size())));
  }
  return load;
}

void expect_load(const json& mean, const json& worst, const json& starved, const Load& load) {
  const auto n = static_cast<double>(load.entropies.size());
  expect_near(mean, std::accumulate(load.entropies.begin(), load.entropies.end(), 0.0) / n, "mean entropy");
  expect_near(worst, *std::min_element(load.entropies.begin(), load.entropies.end()), "worst entropy");
  EXPECT_EQ(starved, load.starved);
}

}  // namespace

void expect_evaluation(const json& line, const Figures& figures, bool has_teacher) {
  EXPECT_EQ(line["eval_tokens"], figures.tokens);
  if (const Load load = load_of(figures); !load.entropies.empty())
    expect_load(line["eval_load_entropy"], line["eval_load_worst_entropy"], line["eval_starved_experts"], load);
  expect_near(line["eval_ce"], figures.ce, "eval_ce");
  expect_near(line["eval_perplexity"], std::exp(figures.ce), "eval_perplexity");
  expect_near(line["eval_ece"], figures.ece, "eval_ece");
  if (!has_teacher) return;
  expect_near(line["eval_teacher_ce"], figures.teacher_ce, "eval_teacher_ce");
  expect_near(line["eval_kl"], figures.kl, "eval_kl");
  expect_near(line["eval_kl_median"], figures.kl_median, "eval_kl_median");
  expect_near(line["eval_kl_p90"], figures.kl_p90, "eval_kl_p90");
  expect_near(line["eval_kl_p99"], figures.kl_p99, "eval_kl_p99");
  expect_near(line["eval_teacher_ece"], figures.teacher_ece, "eval_teacher_ece");
  expect_near(line["eval_top1_agreement"], figures.agreement, "eval_top1_agreement");
  expect_near(line["eval_sum_min"], figures.sum_min, "eval_sum_min");
}

void expect_figures(const json& evaluation, const Figures& figures) {
  EXPECT_EQ(evaluation["tokens"], figures.tokens);
  expect_near(evaluation["ce"], figures.ce, "ce");
  expect_near(evaluation["perplexity"], std::exp(figures.ce), "perplexity");
  expect_near(evaluation["ece"], figures.ece, "ece");
  const Load load = load_of(figures);
  ASSERT_EQ(evaluation.contains("load_entropy"), !load.entropies.empty());
  if (!load.entropies.empty()) {
    expect_load(evaluation["load_entropy"], evaluation["load_worst_entropy"], evaluation["starved_experts"], load);
    EXPECT_EQ(evaluation["experts"], figures.load.size() * figures.load[0].size());
  }
  if (figures.teacher_ce == 0) {  // there is no teacher: what was not measured is not there
    for (const char* name :
         {"teacher_ce", "kl", "kl_median", "kl_p90", "kl_p99", "top1_agreement", "sum_min", "teacher_ece"})
      EXPECT_FALSE(evaluation.contains(name)) << evaluation;
    return;
  }
  expect_near(evaluation["teacher_ce"], figures.teacher_ce, "teacher_ce");
  expect_near(evaluation["kl"], figures.kl, "kl");
  expect_near(evaluation["kl_median"], figures.kl_median, "kl_median");
  expect_near(evaluation["kl_p90"], figures.kl_p90, "kl_p90");
  expect_near(evaluation["kl_p99"], figures.kl_p99, "kl_p99");
  expect_near(evaluation["teacher_ece"], figures.teacher_ece, "teacher_ece");
  expect_near(evaluation["top1_agreement"], figures.agreement, "top1_agreement");
  expect_near(evaluation["sum_min"], figures.sum_min, "sum_min");
}

void expect_step(const json& line, const Step& step, double rate, std::int64_t tokens, std::int64_t assignments,
                 std::int64_t first_layer, bool has_teacher) {
  SCOPED_TRACE("step " + line["step"].dump());
  expect_near(line["loss"], step.loss, "loss");
  expect_near(line["ce"], step.figures.ce, "ce");
  expect_near(line["grad_norm"], step.norm, "grad_norm");
  expect_near(line["balance_loss"], step.balance, "balance_loss");
  expect_near(line["z_loss"], step.z, "z_loss");
  for (const auto& [name, norm] : {std::pair("grad_norm_balance", step.balance_norm), {"grad_norm_z", step.z_norm}}) {
    ASSERT_EQ(line.contains(name), norm > 0) << name;
    if (norm > 0) expect_near(line[name], norm, name);
  }
  EXPECT_NEAR(line["lr"].get<double>(), rate, 1e-12 * rate);
  EXPECT_EQ(line["tokens"], tokens);
  if (has_teacher) {
    expect_near(line["kl"], step.figures.kl, "kl");
    expect_near(line["teacher_ce"], step.figures.teacher_ce, "teacher_ce");
    expect_near(line["top1_agreement"], step.figures.agreement, "top1_agreement");
    if (step.hidden > 0) expect_near(line["hidden_loss"], step.hidden, "hidden_loss");
  }
  ASSERT_EQ(line["expert_load"].size(), step.load.size());
  for (std::size_t i = 0; i < step.load.size(); ++i) {
    const json& load = line["expert_load"][i];
    EXPECT_EQ(load["layer"], first_layer + static_cast<std::int64_t>(i));
    EXPECT_EQ(load["assignments"].get<std::vector<double>>(), step.load[i]);
    const double taken = std::accumulate(step.load[i].begin(), step.load[i].end(), 0.0);
    EXPECT_EQ(load["drops"], static_cast<double>(assignments) - taken);
    if (load.contains("untaken"))
      expect_near(load["untaken"], step.untaken[i] / static_cast<double>(step.figures.tokens), "untaken");
    else
      EXPECT_EQ(step.untaken[i], 0);
    expect_near(load["max"], *std::max_element(step.load[i].begin(), step.load[i].end()) / taken, "max");
    expect_near(load["min"], *std::min_element(step.load[i].begin(), step.load[i].end()) / taken, "min");
  }
}

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
    EXPECT_LE(worst, 10 * run_tolerance * std::max(greatest_of(values), greatest / 100)) << name;
  }
}

std::map<std::string, std::vector<double>> values_of(const Weights& weights) {
  std::map<std::string, std::vector<double>> values;
  for (const auto& [name, weight] : weights) values[name] = values_of(weight.value);
  return values;
}

std::map<std::string, std::vector<double>> saved_values(const fs::path& model) {
  const launch::ModelSource source = launch::open_model(model);
  return values_of(read_weights(source.config, *source.reader));
}

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
    double ms = 0, text = 0, passes = 0, norm = 0, optimizer = 0;
    ASSERT_EQ(std::sscanf(found->c_str() + found->find(what) + what.size(),
                          "%lf ms: text %lf, passes and reductions %lf, gradient norm %lf, optimizer %lf", &ms, &text,
                          &passes, &norm, &optimizer),
              5)
        << *found;
    EXPECT_NEAR(1e3 * static_cast<double>(tokens) / speed, ms, 0.06) << *found;
    EXPECT_NEAR(text + passes + norm + optimizer, ms, 0.26) << *found;  // each to a tenth
  }
}

std::vector<json> whole_lines(const RunFolder& folder, const std::string& run) {
  std::vector<json> lines;
  std::istringstream in(folder.read(run + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

}  // namespace limbeck::testing
