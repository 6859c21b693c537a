// `limbeck eval MODEL --task` against PyPI's lm-eval on the same files and model
// (tests/golden/evaluation/make_tasks.py).

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <map>

#include "data/text/text_source.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/teacher_file.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

std::string file_of(const std::string& name) { return golden_path("evaluation/tasks/" + name); }

json golden() { return json::parse(data::read_document(golden_path("evaluation/tasks.json"))); }

std::string option_of(const json& expected) {
  const std::string name = expected["task"];
  std::string option = fmt::format(" --task {}:{}", name, file_of(name + "_test.jsonl"));
  if (expected["shots"] > 0)
    option += fmt::format(",shots={},examples={}", expected["shots"].get<int>(), file_of(name + "_dev.jsonl"));
  return option;
}

/// Limbeck's names of lm-eval's figures.
const std::map<std::string, std::string> names = {{"acc", "acc,none"},
                                                  {"acc_stderr", "acc_stderr"},
                                                  {"acc_norm", "acc_norm,none"},
                                                  {"acc_bytes", "acc_bytes,none"},
                                                  {"perplexity", "perplexity,none"},
                                                  {"exact_match_strict", "exact_match,strict-match"},
                                                  {"exact_match_flexible", "exact_match,flexible-extract"}};

void expect_answers(const json& actual, const json& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const json& a = actual[i];
    const json& e = expected[i];
    if (e.contains("generated")) {
      EXPECT_EQ(a["text"], e["generated"]) << i;
      EXPECT_EQ(a["exact_match_strict"], e["strict-match"]) << a;
      EXPECT_EQ(a["exact_match_flexible"], e["flexible-extract"]) << a;
      continue;
    }
    ASSERT_EQ(a["log_likelihoods"].size(), e["log_likelihoods"].size());
    EXPECT_EQ(a["greedy"], e["greedy"]) << i;
    for (std::size_t c = 0; c < e["log_likelihoods"].size(); ++c)
      EXPECT_NEAR(a["log_likelihoods"][c].get<double>(), e["log_likelihoods"][c].get<double>(), 1e-4) << i << " " << c;
  }
}

TEST(EvalTasks, AnswersAndFiguresAreLmEvals) {
  const RunFolder folder("eval_tasks");
  const json expected = golden();
  std::string eval =
      fmt::format("eval {} --json --quiet --max-tokens {}", file_of("model"), expected["max_tokens"].get<int>());
  for (const json& one : expected["results"]) eval += option_of(one);
  const Outcome outcome = folder.limbeck(eval);
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  const json result = json::parse(outcome.output);
  ASSERT_EQ(result["tasks"].size(), expected["results"].size());
  for (std::size_t t = 0; t < result["tasks"].size(); ++t) {
    const json& task = result["tasks"][t];
    const json& reference = expected["results"][t];
    SCOPED_TRACE(fmt::format("{} {}", reference["task"].get<std::string>(), reference["shots"].get<int>()));
    EXPECT_EQ(task["task"], reference["task"]);
    EXPECT_EQ(task["shots"], reference["shots"]);
    EXPECT_EQ(task["questions"], reference["questions"].size());
    expect_answers(task["answers"], reference["questions"]);
    int compared = 0;
    for (const auto& [name, theirs] : names) {
      if (!reference["figures"].contains(theirs)) continue;
      const double value = reference["figures"][theirs];
      EXPECT_NEAR(task["figures"][name].get<double>(), value, 1e-4 * std::max(1.0, std::abs(value))) << name;
      ++compared;
    }
    EXPECT_GE(compared, 2);
  }
  for (const int ranks : {2, 3}) EXPECT_EQ(folder.limbeck(eval, ranks).output, outcome.output) << ranks;
}

TEST(EvalTasks, ATableHasALineAFigureAndProgressSaysHowLong) {
  const RunFolder folder("eval_tasks_table");
  const std::string task =
      fmt::format("--task arc:{} --task lambada:{}", file_of("arc_test.jsonl"), file_of("lambada_test.jsonl"));
  const Outcome table = folder.limbeck(fmt::format("eval {} {} --quiet", file_of("model"), task));
  ASSERT_EQ(table.code, 0) << table.output;
  EXPECT_EQ(table.lines_with("arc_test.jsonl: 14 questions").size(), 1U) << table.output;
  EXPECT_EQ(table.lines_with("acc_norm ").size(), 1U);
  EXPECT_EQ(table.lines_with(" ± ").size(), 4U);
  EXPECT_EQ(table.lines_with("perplexity ").size(), 1U);
  const Outcome loud = folder.limbeck(fmt::format("eval {} {}", file_of("model"), task));
  EXPECT_THAT(loud.output, HasSubstr("text "));
}

TEST(EvalTasks, WhatIsWrongIsOneLine) {
  const RunFolder folder("eval_tasks_wrong");
  const std::string model = file_of("model"), arc = file_of("arc_test.jsonl");
  const auto error = [&](const std::string& arguments, int code, int ranks = 1) {
    const Outcome outcome = folder.limbeck("eval " + model + " " + arguments, ranks);
    EXPECT_EQ(outcome.code, code) << outcome.output;
    const auto lines = outcome.lines_with("limbeck: error: ");
    EXPECT_EQ(lines.size(), 1U) << outcome.output;
    return lines.empty() ? "" : lines[0];
  };
  EXPECT_THAT(error("--task piqa:x.jsonl", 2), HasSubstr("there is no task 'piqa'"));
  EXPECT_THAT(error("--task arc", 2), HasSubstr("expected KIND:FILE"));
  EXPECT_THAT(error("--task arc:,shots=2", 2), HasSubstr("names no file"));
  EXPECT_THAT(error("--task arc:x,shots=two,examples=y", 2), HasSubstr("shots is 'two'"));
  EXPECT_THAT(error("--task arc:x,shots=2", 2), HasSubstr("expected ,examples=FILE"));
  EXPECT_THAT(error("--task arc:" + arc + " --text x", 2), HasSubstr("--text does not go with --task"));
  EXPECT_THAT(error("--max-tokens 3 --text x", 2), HasSubstr("--max-tokens goes with --task"));
  EXPECT_THAT(error("--task arc:" + arc + " --window 193", 2), HasSubstr("--window is 193, expected at most 192"));
  EXPECT_THAT(error("--task arc:gone.jsonl", 1), HasSubstr("gone.jsonl: cannot be opened"));
  EXPECT_THAT(error("--task arc:" + arc + " --window 2", 1), HasSubstr("arc_test.jsonl:1: the answer"));
  EXPECT_THAT(error("--task gsm8k:" + file_of("gsm8k_test.jsonl"), 2), HasSubstr("--max-tokens is 256"));
  EXPECT_THAT(error(fmt::format("--task arc:{},shots=4,examples={}", arc, file_of("arc_dev.jsonl")), 1),
              HasSubstr("arc_dev.jsonl: has 3 examples for"));
  folder.write("hostile.jsonl", "{\"question\": \"a\", \"choices\": 3}\n");
  EXPECT_THAT(error("--task arc:hostile.jsonl", 1, 2), HasSubstr("hostile.jsonl:1: choices"));
}

}  // namespace
}  // namespace limbeck::testing
