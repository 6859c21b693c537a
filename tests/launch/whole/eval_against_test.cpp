// `limbeck eval MODEL --against OTHER`: what is said of the difference is of the figures that each model has alone, and
// its interval that of the figures of the documents, or questions, resampled.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "launch/run/paired_bootstrap.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/teacher_file.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::testing {
namespace {

using launch::FigureDifference;
using launch::PairedSample;
using launch::SampleFigure;
using nlohmann::json;
using ::testing::HasSubstr;
using Sums = std::span<const double>;

std::vector<FigureDifference> bootstrap(const PairedSample& sample, const std::vector<SampleFigure>& figures) {
  std::vector<FigureDifference> found;
  run_ranks(1, [&](RankWorld& world) {
    launch::Rank rank(world.comm, "dp1", 1);
    found = launch::paired_bootstrap(rank, sample, figures);
  });
  return found;
}

void expect_difference(const json& actual, const FigureDifference& expected) {
  EXPECT_NEAR(actual["value"].get<double>(), expected.model, 1e-9) << expected.name;
  EXPECT_NEAR(actual["against"].get<double>(), expected.against, 1e-9) << expected.name;
  EXPECT_NEAR(actual["difference"].get<double>(), expected.difference, 1e-9) << expected.name;
  EXPECT_NEAR(actual["low"].get<double>(), expected.low, 1e-9) << expected.name;
  EXPECT_NEAR(actual["high"].get<double>(), expected.high, 1e-9) << expected.name;
  EXPECT_NEAR(actual["p_value"].get<double>(), expected.p_value, 3e-4) << expected.name;
}

json json_of(const Outcome& outcome) {
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  return outcome.code == 0 ? json::parse(outcome.output) : json();
}

TEST(EvalAgainst, ATextIsResampledByDocument) {
  const RunFolder folder("eval_against");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 6 --out run").code, 0);
  ASSERT_EQ(folder.limbeck("train tiny.textproto --set model.moe.num_experts=0 --steps 3 --out other").code, 0);
  folder.write("one.txt", "x");  // with its end of text a document of one prediction
  const std::string of = " --text text one.txt --teacher other/checkpoints/step_3 --window 32 --json --quiet";
  const json alone = json_of(folder.limbeck("eval run" + of)), other = json_of(folder.limbeck("eval other" + of));
  const Outcome outcome = folder.limbeck("eval run --against other" + of);
  const json result = json_of(outcome);
  EXPECT_EQ(result["all"], alone["all"]);
  EXPECT_EQ(result["documents"], alone["documents"]);
  EXPECT_EQ(result["against"]["resamples"], 10000);
  const json& differences = result["against"]["differences"];
  PairedSample sample{.columns = 7};
  for (const auto& [from, to] : {std::pair(&alone, &sample.model), std::pair(&other, &sample.against)})
    for (const json& d : (*from)["documents"]) {
      const double n = d["tokens"], ce = d["ce"];
      to->insert(to->end(), {n, n * ce, d["bytes"].get<double>(), n * d["kl"].get<double>(),
                             n * d["top1_agreement"].get<double>(), n * d["sum_min"].get<double>(), ce});
    }
  const auto documents = static_cast<double>(sample.num_units());
  const std::vector<FigureDifference> expected =
      bootstrap(sample, {{"ce", [](Sums s) { return s[1] / s[0]; }},
                         {"perplexity", [](Sums s) { return std::exp(s[1] / s[0]); }},
                         {"bits_per_byte", [](Sums s) { return s[1] / s[2] / std::log(2.0); }},
                         {"kl", [](Sums s) { return s[3] / s[0]; }},
                         {"top1_agreement", [](Sums s) { return s[4] / s[0]; }},
                         {"sum_min", [](Sums s) { return s[5] / s[0]; }},
                         {"document_perplexity", [=](Sums s) { return std::exp(s[6] / documents); }}});
  for (const FigureDifference& d : expected) expect_difference(differences[d.name], d);
  EXPECT_EQ(differences.size(), 8U);
  for (const auto& [name, d] : differences.items()) {
    EXPECT_NEAR(d["value"].get<double>(), alone["all"][name].get<double>(), 1e-12) << name;
    EXPECT_NEAR(d["against"].get<double>(), other["all"][name].get<double>(), 1e-12) << name;
    EXPECT_LE(d["low"], d["difference"]) << name;
    EXPECT_GE(d["high"], d["difference"]) << name;
  }
  for (const int ranks : {2, 3})
    EXPECT_EQ(folder.limbeck("eval run --against other" + of, ranks).output, outcome.output);
  const json same = json_of(folder.limbeck("eval run --against run/checkpoints/step_6" + of));
  for (const auto& [name, d] : same["against"]["differences"].items()) {
    EXPECT_EQ(d["difference"], 0) << name;
    EXPECT_EQ(d["p_value"], 1) << name;
  }
  const Outcome table = folder.limbeck("eval run --text text --against other --quiet");
  EXPECT_EQ(table.lines_with("95 % intervals by 10000 resamples of the documents").size(), 1U) << table.output;
  EXPECT_EQ(table.lines_with(" to ").size(), 5U) << table.output;
  const Outcome wrong = folder.limbeck("eval run --against other");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_EQ(wrong.lines_with("--against goes with --text, with --task").size(), 1U) << wrong.output;
  const Outcome one = folder.limbeck("eval run --text one.txt --against other --quiet");
  EXPECT_THAT(one.output, HasSubstr("two or more documents are needed"));
}

TEST(EvalAgainst, TasksAreResampledByQuestionWhateverTheTokenizers) {
  const RunFolder folder("eval_against_tasks");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 2 --out run").code, 0);
  const auto file = [](const std::string& name) { return golden_path("evaluation/tasks/" + name); };
  const std::string tasks = fmt::format(" --task arc:{} --task lambada:{} --json --quiet", file("arc_test.jsonl"),
                                        file("lambada_test.jsonl"));
  const std::string model = file("model");
  const json alone = json_of(folder.limbeck("eval " + model + tasks)),
             other = json_of(folder.limbeck("eval run" + tasks));
  const Outcome outcome = folder.limbeck("eval " + model + tasks + " --against run");
  const json result = json_of(outcome);
  for (std::size_t t = 0; t < 2; ++t) {
    EXPECT_EQ(result["tasks"][t]["figures"], alone["tasks"][t]["figures"]);
    PairedSample sample{.columns = 2};
    for (const auto& [from, to] : {std::pair(&alone, &sample.model), std::pair(&other, &sample.against)})
      for (const json& answer : (*from)["tasks"][t]["answers"])
        to->insert(to->end(), {answer["acc"].get<double>(),
                               t == 0 ? answer["acc_norm"].get<double>() : answer["log_likelihoods"][0].get<double>()});
    const auto n = static_cast<double>(sample.num_units());
    std::vector<SampleFigure> figures = {{"acc", [=](Sums s) { return s[0] / n; }}};
    figures.push_back(t == 0 ? SampleFigure{"acc_norm", [=](Sums s) { return s[1] / n; }}
                             : SampleFigure{"perplexity", [=](Sums s) { return std::exp(-s[1] / n); }});
    const json& differences = result["tasks"][t]["against"]["differences"];
    for (const FigureDifference& d : bootstrap(sample, figures)) {
      if (d.name != "perplexity") {
        expect_difference(differences[d.name], d);
        continue;
      }
      for (const auto& [name, value] : {std::pair("difference", d.difference), {"low", d.low}, {"high", d.high}})
        EXPECT_NEAR(differences[d.name][name].get<double>(), value, 1e-9 * std::abs(value)) << name;
    }
  }
  EXPECT_EQ(folder.limbeck("eval " + model + tasks + " --against run", 2).output, outcome.output);

  // Of a text that is other tokens to each, bits a byte alone.
  const Outcome text = folder.limbeck("eval " + model + " --text text --against run --json");
  ASSERT_EQ(text.code, 0) << text.output;
  EXPECT_EQ(text.lines_with("bits/byte alone are compared").size(), 1U) << text.output;
  const json differences = json::parse(text.output.substr(text.output.find('{')))["against"]["differences"];
  EXPECT_EQ(differences.size(), 1U);
  const json bytes = json_of(folder.limbeck("eval run --text text --json --quiet --window 128"));
  EXPECT_NEAR(differences["bits_per_byte"]["against"].get<double>(), bytes["all"]["bits_per_byte"].get<double>(), 1e-9);
}

}  // namespace
}  // namespace limbeck::testing
