// What a run is measured on besides its steps: evaluation sets, the sources of a mixture, the best checkpoint, and the
// end for want of gain.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "tests/support/run_limbeck.h"

namespace limbeck::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string link_of(const RunFolder& folder, const std::string& run) {
  const fs::path link = folder.path() / run / "checkpoints/best";
  return fs::is_symlink(link) ? fs::read_symlink(link).string() : "";
}

std::vector<std::string> checkpoints(const RunFolder& folder, const std::string& run) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.path() / run / "checkpoints"))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

/// What end.json says of the held-out sample is what the line of metrics.jsonl says, by the same names.
void expect_named_alike(const json& student, const json& line) {
  for (const auto& [name, value] : student.items())
    if (name != "experts" && name != "load_worst_layer" && name != "starved_layers") {
      EXPECT_EQ(line.value("eval_" + name, json()), value) << name;
    }
}

constexpr const char* web_text = "the still keeps what was large and becomes small.";

/// job.textproto: the small model with an evaluation set "web".
void write_job(const RunFolder& folder, const std::string& set = "text: \"web.txt\"") {
  folder.write("web.txt", web_text);
  folder.write("job.textproto", folder.read("tiny.textproto") + "evaluation { set { name: \"web\" " + set + " } }\n");
}

TEST(RunEvaluations, SetsAreMeasuredBeforeWhileAndAfter) {
  const RunFolder folder("eval_sets");
  folder.write("web.txt", web_text);
  ASSERT_EQ(folder.limbeck("tokenize text/1.txt --tokenizer bytes --out tokens").code, 0);
  folder.write("job.textproto", folder.read("tiny.textproto") + R"(
evaluation {
  set { name: "web" text: "web.txt" }
  set { name: "own" tokens: "tokens" every_steps: 3 }
})");
  const Outcome train = folder.limbeck("train job.textproto --set train.eval_every_steps=2 --steps 4 --out run");
  ASSERT_EQ(train.code, 0) << train.output;
  EXPECT_EQ(train.lines_with("evaluation set own: 1 of 1 document is in the training text: tokens:0").size(), 1U)
      << train.output;
  const auto lines = folder.metrics("run");
  ASSERT_EQ(lines.size(), 4U);
  const auto sets = [&](std::size_t step) {
    std::vector<std::string> names;
    if (lines[step - 1].contains("eval_sets"))
      for (const auto& [name, set] : lines[step - 1]["eval_sets"].items()) names.push_back(name);
    return names;
  };
  EXPECT_THAT(sets(1), ElementsAre());
  EXPECT_THAT(sets(2), ElementsAre("web"));
  EXPECT_THAT(sets(3), ElementsAre("own"));
  EXPECT_THAT(sets(4), ElementsAre("web"));
  EXPECT_TRUE(lines[1].contains("eval_ce"));
  EXPECT_FALSE(lines[2].contains("eval_ce"));
  EXPECT_EQ(train.lines_with("step 2: held out: ce ").size(), 1U) << train.output;
  EXPECT_EQ(train.lines_with(": web: ce ").size(), 3U) << train.output;  // before, and at steps 2 and 4
  EXPECT_EQ(train.lines_with("evaluation set web: 1 document, 49 tokens").size(), 1U) << train.output;
  EXPECT_EQ(train.lines_with(fmt::format("before, on {} tokens", 384 + 49 + folder.read("text/1.txt").size())).size(),
            1U)
      << train.output;

  // The sample is a piece of one document, whose every token is a byte.
  for (const std::size_t step : {2U, 4U}) {
    const json& line = lines[step - 1];
    EXPECT_EQ(line["eval_bytes"], line["eval_tokens"]);
    EXPECT_NEAR(line["eval_bits_per_byte"].get<double>(), line["eval_ce"].get<double>() / std::log(2), 1e-12);
    EXPECT_NEAR(line["eval_perplexity"].get<double>(), std::exp(line["eval_ce"].get<double>()), 1e-9);
  }

  const json start = json::parse(folder.read("run/start.json")), end = json::parse(folder.read("run/end.json"));
  for (const json& record : {start, end}) {
    EXPECT_EQ(record["sets"].size(), 2U);
    EXPECT_EQ(record["sets"]["web"]["bytes"], 49);
    EXPECT_EQ(record["sets"]["web"]["tokens"], 49);  // the end of text, and all but the first
    EXPECT_FALSE(record["sets"]["web"].contains("kl"));
    EXPECT_FALSE(record["student"].contains("kl"));
    EXPECT_FALSE(record["student"].contains("teacher_ce"));
    EXPECT_FALSE(record.contains("unigram"));
  }
  EXPECT_EQ(end["sets"]["web"], lines[3]["eval_sets"]["web"]);
  EXPECT_LT(end["sets"]["web"]["ce"], start["sets"]["web"]["ce"]);
  EXPECT_THAT(train.output, HasSubstr("Evaluation sets:"));
  EXPECT_EQ(train.lines_with("web, before").size(), 1U) << train.output;

  // The same figures from the command, which finds the sets in the run's config, and from its text.
  const Outcome eval = folder.limbeck("eval run --json --quiet");
  ASSERT_EQ(eval.code, 0) << eval.output;
  const json again = json::parse(eval.output);
  EXPECT_EQ(again["sets"], end["sets"]);
  EXPECT_EQ(again["held_out"], end["student"]);
  expect_named_alike(end["student"], lines[3]);
  for (const char* figure : {"bits_per_byte", "perplexity", "load_entropy", "starved_layers"})
    EXPECT_TRUE(start["student"].contains(figure) && end["student"].contains(figure)) << figure;
  const Outcome text = folder.limbeck("eval run --text web.txt --json --quiet");
  EXPECT_EQ(json::parse(text.output)["all"], end["sets"]["web"]) << text.output;

  const Outcome events = run_shell(fmt::format("strings -n 4 {}/run/events.out.tfevents.*", folder.path().string()));
  EXPECT_THAT(events.output, AllOf(HasSubstr("eval/sets/web/bits_per_byte"), HasSubstr("eval/bits_per_byte"),
                                   HasSubstr("eval/perplexity")));
  for (const char* row : {"perplexity ", "bits/byte "}) {
    const auto rows = train.lines_with(row);
    ASSERT_GE(rows.size(), 1U) << train.output;
    EXPECT_THAT(folder.limbeck("eval run").output, HasSubstr(rows.back().substr(rows.back().rfind(' ')))) << row;
  }
}

TEST(RunEvaluations, ASetIsMeasuredByItsOwnStepsAndAtAnEndThatMayBeTheBest) {
  const RunFolder folder("own_steps");
  folder.write("web.txt", web_text);
  folder.write("broken.txt", std::string(web_text) + "\xff and \xc3");
  folder.write("job.textproto", folder.read("tiny.textproto") + R"(
evaluation {
  set { name: "web" text: "web.txt" every_steps: 2 }
  set { name: "broken" text: "broken.txt" every_steps: 3 }
})");
  const std::string train = "train job.textproto --set train.steps=4 ";
  const Outcome plain = folder.limbeck(train + "--out plain");
  ASSERT_EQ(plain.code, 0) << plain.output;
  const auto sets_of = [&](const std::string& run, std::size_t step) {
    const json line = folder.metrics(run).at(step - 1);
    return line.contains("eval_sets") ? line["eval_sets"].size() : 0;
  };
  EXPECT_EQ(folder.metrics("plain")[3]["eval_sets"].begin().key(), "web");
  EXPECT_EQ(sets_of("plain", 4), 1U);  // the other is not due
  EXPECT_FALSE(folder.metrics("plain")[3].contains("eval_ce"));
  EXPECT_EQ(json::parse(folder.read("plain/end.json"))["sets"].size(), 2U);
  EXPECT_EQ(plain.lines_with("evaluation set broken: 2 ill-formed UTF-8 sequences became U+FFFD").size(), 1U)
      << plain.output;
  EXPECT_EQ(plain.lines_with("ill-formed").size(), 1U) << plain.output;

  const Outcome best = folder.limbeck(train + "--set train.keep_best=web.ce --out best");
  ASSERT_EQ(best.code, 0) << best.output;
  EXPECT_EQ(sets_of("best", 3), 1U);
  EXPECT_EQ(sets_of("best", 4), 2U);
  EXPECT_EQ(json::parse(folder.read("best/end.json"))["sets"], folder.metrics("best")[3]["eval_sets"]);

  const Outcome text = folder.limbeck("eval plain --text broken.txt");
  EXPECT_EQ(text.lines_with("the text: 2 ill-formed UTF-8 sequences became U+FFFD").size(), 1U) << text.output;
}

TEST(RunEvaluations, EvalNeedsNoSetThatTheBestWasKeptBy) {
  const RunFolder folder("eval_without_sets");
  write_job(folder);
  ASSERT_EQ(folder
                .limbeck("train job.textproto --steps 2 --set train.eval_every_steps=2 --set train.keep_best=web.ce "
                         "--set train.stop_after_evaluations_without_gain=2 --out run")
                .code,
            0);
  const Outcome eval = folder.limbeck("eval run --set evaluation.set= --json --quiet");
  ASSERT_EQ(eval.code, 0) << eval.output;
  EXPECT_FALSE(json::parse(eval.output).contains("sets"));
  EXPECT_EQ(json::parse(eval.output)["held_out"], json::parse(folder.read("run/end.json"))["student"]);
  const Outcome by_config = folder.limbeck(
      "eval job.textproto --set output.dir=run --set train.keep_best=web.ce --set evaluation.set= --json --quiet");
  EXPECT_EQ(by_config.output, eval.output);
  const Outcome train = folder.limbeck("train run --resume --set evaluation.set=");
  EXPECT_EQ(train.code, 2) << train.output;
  EXPECT_THAT(train.output, HasSubstr("train.keep_best is \"web.ce\", expected a set"));
}

TEST(RunEvaluations, AreTheSameOnEveryLayout) {
  const RunFolder folder("eval_layouts");
  write_job(folder);
  folder.write("web.txt", folder.read("text/2.txt").substr(0, 700));
  const std::string train = "train job.textproto --steps 2 --set train.eval_every_steps=2";
  ASSERT_EQ(folder.limbeck(train + " --out one").code, 0);
  const json expected = folder.metrics("one").back();
  for (const char* layout : {"ep2", "tp2", "cp2"})
    for (const char* parallel : {"false", "true"}) {
      const std::string run = fmt::format("{}_{}", layout, parallel);
      const Outcome outcome =
          folder.limbeck(fmt::format("{} --set parallel.layout={} --set parallel.sequence_parallel={} --out {}", train,
                                     layout, parallel, run),
                         2);
      ASSERT_EQ(outcome.code, 0) << outcome.output;
      const json actual = folder.metrics(run).back();
      EXPECT_NEAR(actual["eval_sets"]["web"]["ce"].get<double>(), expected["eval_sets"]["web"]["ce"].get<double>(),
                  1e-4)
          << run;
      EXPECT_NEAR(actual["eval_ce"].get<double>(), expected["eval_ce"].get<double>(), 1e-4) << run;
    }
}

TEST(RunEvaluations, OfADistillationAreAgainstItsTeacher) {
  const RunFolder folder("eval_distilled");
  write_job(folder);
  ASSERT_EQ(folder.limbeck("train tiny.textproto --set model.moe.num_experts=0 --steps 6 --out teacher").code, 0);
  const Outcome distilled = folder.limbeck(
      "distill job.textproto --set teacher.source=teacher --set model.num_layers=1 --set train.eval_every_steps=2 "
      "--set "
      "train.keep_best=web.kl --steps 2 --out student");
  ASSERT_EQ(distilled.code, 0) << distilled.output;
  const json end = json::parse(folder.read("student/end.json"));
  const json& set = end["sets"]["web"];
  EXPECT_EQ(folder.metrics("student").back()["eval_sets"]["web"], set);
  EXPECT_EQ(end["best"]["value"], set["kl"]);
  EXPECT_EQ(distilled.lines_with("web, after").size(), 1U) << distilled.output;
  EXPECT_EQ(distilled.lines_with("step 2: held out: kl ").size(), 1U) << distilled.output;
  EXPECT_EQ(distilled.lines_with("step 2: web: kl ").size(), 1U) << distilled.output;
  for (const std::string& line : distilled.lines_with("step 2: ")) EXPECT_LE(line.size(), 120U) << line;
  expect_named_alike(end["student"], folder.metrics("student").back());
  EXPECT_LE(set["kl_median"], set["kl_p99"]);
  const Outcome again = folder.limbeck("eval student --json --quiet");
  EXPECT_EQ(json::parse(again.output)["held_out"], end["student"]);
  for (const char* figure : {"kl_median", "kl_p90", "kl_p99", "load_entropy", "top1_agreement", "ece", "teacher_ece"})
    EXPECT_TRUE(end["student"].contains(figure)) << end["student"];
  EXPECT_THAT(distilled.output, HasSubstr("\nbits/byte   "));
  const Outcome eval =
      folder.limbeck("eval student --text web.txt --teacher teacher/checkpoints/step_6 --json --quiet");
  ASSERT_EQ(eval.code, 0) << eval.output;
  for (const char* figure : {"ce", "teacher_ce", "kl", "top1_agreement", "sum_min", "bits_per_byte"})
    EXPECT_NEAR(json::parse(eval.output)["all"][figure].get<double>(), set[figure].get<double>(), 1e-6) << figure;
}

TEST(RunEvaluations, AMixtureIsMeasuredSourceBySource) {
  const RunFolder folder("eval_sources");
  folder.write("job.textproto", R"(
model { width: 16 num_layers: 1 num_heads: 2 mlp_width: 16 max_positions: 64 }
data {
  sources { text: "text/0.txt" text: "text/1.txt" weight: 3 name: "spirits" }
  sources { text: "text/2.txt" text: "text/3.txt" weight: 1 }
  tokenizer: "bytes" sequence_length: 32 held_out_fraction: 0.4
}
train { steps: 2 eval_every_steps: 2 eval_tokens: 256 threads: 1 }
)");
  const Outcome train = folder.limbeck("train job.textproto --out run");
  ASSERT_EQ(train.code, 0) << train.output;
  const json line = folder.metrics("run").back();
  const json& sets = line["eval_sets"];
  ASSERT_EQ(sets.size(), 2U) << sets;
  double tokens = 0, nats = 0;
  for (const char* source : {"held_out/spirits", "held_out/1"}) {
    ASSERT_TRUE(sets.contains(source)) << sets;
    tokens += sets[source]["tokens"].get<double>();
    nats += sets[source]["tokens"].get<double>() * sets[source]["ce"].get<double>();
    EXPECT_NEAR(sets[source]["bits_per_byte"].get<double>(), sets[source]["ce"].get<double>() / std::log(2), 0.2);
  }
  EXPECT_EQ(sets["held_out/spirits"]["tokens"], 192);  // three of four
  EXPECT_EQ(tokens, line["eval_tokens"].get<double>());
  EXPECT_NEAR(nats / tokens, line["eval_ce"].get<double>(), 1e-9);
}

TEST(RunEvaluations, TheBestCheckpointOutlivesNewerOnes) {
  const RunFolder folder("keep_best");
  write_job(folder);
  const std::string train =
      "train job.textproto --set train.keep_checkpoints=1 --set train.checkpoint_every_steps=3"
      " --set train.eval_every_steps=2 --set train.keep_best=web.bits_per_byte";
  // A rate that first learns and then destroys: the best is in the middle.
  const std::string unlearn = " --set optimizer.rate=1 --set schedule.warmup_steps=0 --set schedule.kind=CONSTANT";
  ASSERT_EQ(folder.limbeck(train + " --steps 6 --out run").code, 0);
  EXPECT_EQ(link_of(folder, "run"), "step_6");
  const Outcome worse = folder.limbeck(train + unlearn + " --steps 13 --out run --resume");
  ASSERT_EQ(worse.code, 0) << worse.output;
  EXPECT_THAT(checkpoints(folder, "run"), ElementsAre("best", "step_13", "step_6"));
  EXPECT_EQ(link_of(folder, "run"), "step_6");
  const json best = json::parse(folder.read("run/end.json"))["best"];
  EXPECT_EQ(best["step"], 6);
  EXPECT_EQ(best["figure"], "web.bits_per_byte");
  EXPECT_EQ(best["without_gain"], 3);  // steps 8, 10 and 12
  EXPECT_EQ(best["value"], folder.metrics("run")[5]["eval_sets"]["web"]["bits_per_byte"]);
  EXPECT_EQ(worse.lines_with("The best by web.bits_per_byte: ").size(), 1U) << worse.output;
  EXPECT_THAT(worse.output, HasSubstr("at step 6: run/checkpoints/best"));

  // A path like any checkpoint's.
  const Outcome eval = folder.limbeck("eval run/checkpoints/best --json --quiet");
  ASSERT_EQ(eval.code, 0) << eval.output;
  EXPECT_EQ(json::parse(eval.output)["step"], 6);
  EXPECT_EQ(json::parse(eval.output)["sets"]["web"]["bits_per_byte"], best["value"]);
  for (const char* command : {"generate run/checkpoints/best --prompt a --max-tokens 1", "inspect run/checkpoints/best",
                              "convert run/checkpoints/best best_model"})
    EXPECT_EQ(folder.limbeck(command).code, 0) << command;

  // Killed between a checkpoint and the link to it, or copied with the link followed: the next start sets it right.
  fs::remove(folder.path() / "run/checkpoints/best");
  ASSERT_EQ(folder.limbeck(train + unlearn + " --steps 13 --out run --resume").code, 0);
  EXPECT_EQ(link_of(folder, "run"), "step_6");
  fs::remove(folder.path() / "run/checkpoints/best");
  fs::copy(folder.path() / "run/checkpoints/step_6", folder.path() / "run/checkpoints/best");
  ASSERT_EQ(folder.limbeck(train + unlearn + " --steps 14 --out run --resume").code, 0);
  EXPECT_EQ(link_of(folder, "run"), "step_6");
  EXPECT_THAT(checkpoints(folder, "run"), ElementsAre("best", "step_14", "step_6"));

  // By another figure the best begins anew.
  const Outcome other = folder.limbeck(train + unlearn + " --set train.keep_best=ce --steps 16 --out run --resume");
  EXPECT_EQ(other.lines_with("the best begins anew").size(), 1U) << other.output;
  EXPECT_EQ(json::parse(folder.read("run/end.json"))["best"]["figure"], "ce");
}

TEST(RunEvaluations, TheLastStepMayBeTheBest) {
  const RunFolder folder("last_is_best");
  const Outcome run = folder.limbeck(
      "train tiny.textproto --set train.steps=10 --set train.eval_every_steps=4 --set train.keep_best=ce --out run");
  ASSERT_EQ(run.code, 0) << run.output;
  EXPECT_EQ(link_of(folder, "run"), "step_10");
  const json end = json::parse(folder.read("run/end.json"));
  EXPECT_EQ(end["best"]["step"], 10);
  EXPECT_EQ(end["best"]["value"], end["student"]["ce"]);
  EXPECT_LT(end["best"]["value"], folder.metrics("run")[7]["eval_ce"]);
}

TEST(RunEvaluations, ARunEndsForWantOfGainAndAResumedOneAtTheSameStep) {
  const RunFolder folder("early_stop");
  const std::string train =
      "train tiny.textproto --set optimizer.rate=0 --set train.eval_every_steps=2 --set train.keep_best=ce"
      " --set train.keep_checkpoints=1 --set train.stop_after_evaluations_without_gain=3";
  const Outcome whole = folder.limbeck(train + " --out whole");
  ASSERT_EQ(whole.code, 0) << whole.output;
  EXPECT_EQ(folder.metrics("whole").size(), 8U);  // best at 2, none better at 4, 6 and 8
  EXPECT_EQ(whole.lines_with("ended at step 8: ce has not got better in 3 evaluations").size(), 1U) << whole.output;
  EXPECT_THAT(checkpoints(folder, "whole"), ElementsAre("best", "step_2", "step_8"));
  const std::string end = folder.read("whole/end.json");
  EXPECT_EQ(json::parse(end)["best"]["step"], 2);
  EXPECT_EQ(json::parse(end)["step"], 8);
  EXPECT_EQ(json::parse(end)["ended_by"], "train.stop_after_evaluations_without_gain");
  EXPECT_EQ(folder.limbeck("inspect whole").lines_with("stopped early at step 8 (patience)").size(), 1U);

  for (const int ranks : {1, 2}) {
    const std::string run = fmt::format("parts{}", ranks);
    ASSERT_EQ(folder.limbeck(train + " --steps 5 --out " + run).code, 0);
    EXPECT_EQ(json::parse(folder.read(run + "/end.json"))["best"]["without_gain"], 1);
    ASSERT_EQ(
        folder.limbeck(train + " --resume --out " + run + (ranks == 2 ? " --set parallel.layout=dp2" : ""), ranks).code,
        0);
    EXPECT_EQ(folder.metrics(run).size(), 8U);
    const json resumed = json::parse(folder.read(run + "/end.json"));
    EXPECT_EQ(resumed["best"], json::parse(end)["best"]) << ranks;
    if (ranks == 1) {
      EXPECT_EQ(folder.read(run + "/end.json"), end);
    }
    EXPECT_EQ(link_of(folder, run), "step_2");
  }
  // An end between two evaluations counts for nothing where the run goes on after all.
  ASSERT_EQ(folder.limbeck(train + " --set train.steps=5 --out longer").code, 0);
  EXPECT_TRUE(folder.metrics("longer")[4].contains("eval_ce"));
  EXPECT_EQ(json::parse(folder.read("longer/end.json"))["best"]["without_gain"], 1);
  ASSERT_EQ(folder.limbeck(train + " --resume --out longer").code, 0);
  EXPECT_EQ(json::parse(folder.read("longer/end.json"))["best"], json::parse(end)["best"]);
  // It stays at its end, and goes on where more is allowed.
  EXPECT_EQ(folder.limbeck(train + " --resume --out whole").code, 0);
  EXPECT_EQ(folder.metrics("whole").size(), 8U);
  EXPECT_EQ(folder.read("whole/end.json"), end);
  EXPECT_EQ(folder.limbeck(train + " --resume --out whole --set train.stop_after_evaluations_without_gain=4").code, 0);
  EXPECT_EQ(folder.metrics("whole").size(), 10U);
}

TEST(RunEvaluations, WhatIsWrongIsSaidBeforeTraining) {
  const RunFolder folder("eval_set_errors");
  folder.write("empty.txt", "");
  const auto error = [&](const std::string& set) {
    write_job(folder, set);
    const Outcome outcome = folder.limbeck("train job.textproto --out run");
    EXPECT_EQ(outcome.code, 1) << outcome.output;
    EXPECT_FALSE(fs::exists(folder.path() / "run/metrics.jsonl"));
    const auto lines = outcome.lines_with("limbeck: error: ");
    EXPECT_EQ(lines.size(), 1U) << outcome.output;
    return lines.empty() ? "" : lines[0];
  };
  EXPECT_THAT(error("text: \"gone\""), HasSubstr("evaluation set web: gone: is not there"));
  EXPECT_THAT(error("text: \"empty.txt\""), HasSubstr("evaluation set web: empty.txt: there is no text"));
  EXPECT_THAT(error("tokens: \"gone\""), HasSubstr("evaluation set web: gone.idx"));
  const Outcome unmeasured = folder.limbeck(
      "train tiny.textproto --out run --set data.held_out_fraction=0 --set train.eval_every_steps=1 --set "
      "train.keep_best=ce");
  EXPECT_EQ(unmeasured.code, 2) << unmeasured.output;
  EXPECT_THAT(unmeasured.output, HasSubstr("train.keep_best is \"ce\", which is not measured"));
}

}  // namespace
}  // namespace limbeck::testing
