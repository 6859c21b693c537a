// What a run prints: on a terminal, into a log, quiet and verbose. And that its files tell the same.

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "launch/console/progress.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/terminal.h"
#include "tests/support/xml.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Outcome;
using testing::run_in_terminal;
using testing::RunFolder;
using ::testing::StartsWith;
using testing::TerminalRun;

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST(Printing, DurationsAreShort) {
  EXPECT_EQ(duration_text(45.4), "45 s");
  EXPECT_EQ(duration_text(200), "3 min 20 s");
  EXPECT_EQ(duration_text(7500), "2 h 5 min");
  EXPECT_EQ(duration_text(-3), "0 s");
}

TEST(Printing, ATerminalHasATableAndOneLiveLine) {
  const RunFolder folder("terminal");
  const TerminalRun run = run_in_terminal(folder.command("train tiny.textproto --steps 12 --out run"), 70);
  ASSERT_EQ(run.code, 0) << run.output;
  EXPECT_THAT(run.output, AllOf(HasSubstr("\r\x1b[K"), HasSubstr("\x1b[1m")));  // a live line, colours
  const auto screen = run.screen();
  // One live line is left, the last one, and it fits.
  std::vector<std::string> live;
  for (const std::string& line : screen)
    if (line.starts_with("step ") && line.find(" left") != std::string::npos) live.push_back(line);
  ASSERT_EQ(live.size(), 1U) << run.output;
  EXPECT_THAT(live[0], StartsWith("step 12/12 [####################] 100 %  0 s left  loss "));
  EXPECT_LT(live[0].size(), 70U);
  // The header, and the row of the last step under it, in columns.
  const auto header = std::find_if(screen.begin(), screen.end(),
                                   [](const std::string& line) { return line.find("tokens/s") != std::string::npos; });
  ASSERT_NE(header, screen.end()) << run.output;
  const auto row =
      std::find_if(header, screen.end(), [](const std::string& line) { return line.starts_with("  12 "); });
  ASSERT_NE(row, screen.end()) << run.output;
  EXPECT_EQ(header->find("loss") + 4, row->find('.') + 5);  // four decimals end below the name
}

TEST(Printing, NoColourWhereItIsNotWantedAndNoLiveLineWhereItCannotBe) {
  const RunFolder folder("colour");
  const std::string train = "train tiny.textproto --steps 2 --out ";
  const TerminalRun plain = run_in_terminal("export NO_COLOR=1; " + folder.command(train + "plain"));
  ASSERT_EQ(plain.code, 0) << plain.output;
  EXPECT_THAT(plain.output, AllOf(HasSubstr("\x1b[K"), Not(HasSubstr("\x1b[1m")), Not(HasSubstr("\x1b[3"))));
  const TerminalRun dumb = run_in_terminal("export TERM=dumb; " + folder.command(train + "dumb"));
  ASSERT_EQ(dumb.code, 0) << dumb.output;
  EXPECT_THAT(dumb.output, Not(HasSubstr("\x1b")));
  const Outcome log = folder.limbeck(train + "log");
  EXPECT_THAT(log.output, AllOf(Not(HasSubstr("\x1b")), Not(HasSubstr("\r")), HasSubstr("step 2/2  loss ")));
}

TEST(Printing, ALogLineTakesThePlaceOfTheLiveLine) {
  const RunFolder folder("between");
  const TerminalRun run = run_in_terminal(
      folder.command("train tiny.textproto --verbose --steps 8 --set train.checkpoint_every_steps=2 --out run"), 100);
  ASSERT_EQ(run.code, 0) << run.output;
  const auto screen = run.screen();
  std::size_t checkpoints = 0;
  for (const std::string& line : screen) {
    if (line.find("checkpoints/step_") == std::string::npos || line.find("written in") == std::string::npos) continue;
    ++checkpoints;
    EXPECT_THAT(line,
                ::testing::MatchesRegex("[0-9:]+ run/checkpoints/step_.*"));  // nothing of the live line before it
  }
  EXPECT_EQ(checkpoints, 4U) << run.output;
}

TEST(Printing, QuietPrintsResultsAndErrorsOnly) {
  const RunFolder folder("quiet");
  const Outcome quiet = folder.limbeck("train tiny.textproto --steps 3 --quiet --out run");
  ASSERT_EQ(quiet.code, 0) << quiet.output;
  EXPECT_THAT(quiet.output, AllOf(Not(HasSubstr("step 3/3")), Not(HasSubstr("student:")), HasSubstr("cross-entropy"),
                                  HasSubstr("The model: run/checkpoints/step_3")));
  const Outcome wrong = folder.limbeck("train tiny.textproto --quiet --out run");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.output, StartsWith("limbeck: error: run: "));
  EXPECT_EQ(count(wrong.output, "\n"), 1U) << wrong.output;
  const Outcome tokens = folder.limbeck("tokenize text --tokenizer bytes --out tokens --quiet");
  EXPECT_EQ(tokens.code, 0);
  EXPECT_EQ(tokens.output, "");
  EXPECT_TRUE(run_in_terminal(folder.command("tokenize text --tokenizer bytes --out more --quiet")).output.empty());
}

TEST(Printing, VerboseTellsOfTimesBucketsAndMemory) {
  const RunFolder folder("verbose");
  const Outcome normal = folder.limbeck("train tiny.textproto --steps 3 --out normal");
  const Outcome verbose = folder.limbeck("train tiny.textproto --steps 3 --verbose --out verbose", 2);
  ASSERT_EQ(verbose.code, 0) << verbose.output;
  for (const char* what : {"buckets of about 16 MiB", "gradient norm", "passes and reductions", "MiB in tensors",
                           "checkpoints/step_3 written in", "training begins after"}) {
    EXPECT_THAT(verbose.output, HasSubstr(what));
    EXPECT_THAT(normal.output, Not(HasSubstr(what)));
  }
  EXPECT_EQ(count(verbose.output, "buckets of about"), 1U);  // one rank speaks
}

/// MiB of the first rank's tensors at the peak of the first step.
double peak_of(const RunFolder& folder, const std::string& run, const std::string& settings, int ranks) {
  const Outcome outcome = folder.limbeck(
      "train tiny.textproto --steps 1 --verbose --set model.num_layers=4 --set model.width=64 --set "
      "data.sequence_length=128 "
      "--set batch.sequences_per_step=16 --set train.eval_tokens=1 --set generation.max_tokens=0 --out " +
          run + " " + settings,
      ranks);
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  const auto lines = outcome.lines_with(" at the peak");
  double mib = 0;
  if (lines.size() == 1)
    std::sscanf(lines[0].c_str() + lines[0].find("step 1: "), "step 1: %*f MiB in tensors, %lf at the peak", &mib);
  EXPECT_GT(mib, 0) << outcome.output;
  return mib;
}

TEST(Printing, SettingsOfMemoryAreOfEffect) {
  const RunFolder folder("memory");
  const double all = peak_of(folder, "all", "", 1);
  EXPECT_LT(peak_of(folder, "recompute", "--set train.recompute=true", 1), 0.8 * all);
  EXPECT_LT(peak_of(folder, "micro", "--set batch.micro_batches=4", 1), 0.6 * all);
  const std::string cut = "--set parallel.layout=tp2 ";
  EXPECT_LT(peak_of(folder, "shares", cut + "--set parallel.sequence_parallel=true", 2),
            0.9 * peak_of(folder, "whole", cut, 2));
}

std::vector<fs::path> event_files(const RunFolder& folder, const std::string& run) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder.path() / run))
    if (entry.path().filename().string().starts_with("events.out.tfevents.")) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

TEST(RunFiles, EachStepIsInMetricsAndEventsAndAResumeBeginsAFileOfItsOwn) {
  const RunFolder folder("events");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 6 --out run", 2).code, 0);
  ASSERT_EQ(event_files(folder, "run").size(), 1U);  // the first rank alone
  EXPECT_EQ(count(testing::read_file(event_files(folder, "run")[0]), "balance_loss"), 6U);
  // Step 4 has the last checkpoint: steps 5 and 6 are done again.
  fs::remove_all(folder.path() / "run/checkpoints/step_6");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 7 --out run --resume", 2).code, 0);
  EXPECT_EQ(event_files(folder, "run").size(), 2U);
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 7 --out run --resume").code, 0);  // nothing to do
  EXPECT_EQ(event_files(folder, "run").size(), 2U);
  EXPECT_EQ(folder.metrics("run").size(), 7U);
}

TEST(RunFiles, ExpertLoadIsOfEachLayerAndWhole) {
  const RunFolder folder("load");
  const Outcome run = folder.limbeck(
      "train tiny.textproto --steps 4 --out run --set model.num_layers=3 --set model.moe.dense_layers=[0] "
      "--set train.log_every_steps=3",
      2);
  ASSERT_EQ(run.code, 0) << run.output;
  const auto lines = folder.metrics("run");
  ASSERT_EQ(lines.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) {
    const auto& load = lines[i]["expert_load"];
    ASSERT_EQ(load.size(), 2U);
    EXPECT_EQ(load[0]["layer"], 1);
    EXPECT_EQ(load[1]["layer"], 2);
    EXPECT_EQ(load[0].contains("assignments"), i == 0 || i == 2) << i;
    EXPECT_GT(load[0]["entropy"], 0);
    EXPECT_LE(load[0]["entropy"], 1);
    EXPECT_LE(load[0]["min"], 0.25);
    EXPECT_GE(load[0]["max"], 0.25);
  }
  // Four sequences of 48 tokens, each with two of four experts.
  const auto assignments = lines[0]["expert_load"][1]["assignments"].get<std::vector<std::int64_t>>();
  ASSERT_EQ(assignments.size(), 4U);
  EXPECT_EQ(assignments[0] + assignments[1] + assignments[2] + assignments[3], 4 * 48 * 2);
}

TEST(RunFiles, ExpertsThatStarveAreWarnedOf) {
  const RunFolder folder("starve");
  // The text has fewer different bytes than each layer has experts, which a token takes one of.
  const std::string many =
      "train tiny.textproto --steps 4 --set train.eval_every_steps=2 --set train.log_every_steps=9 "
      "--set model.moe.num_experts=32 --set model.moe.experts_per_token=1 --set model.moe.expert_width=4 "
      "--set data.held_out_fraction=0.4 --set train.eval_tokens=1920 ";
  const Outcome run = folder.limbeck(many + "--set parallel.layout=ep2 --out run", 2);
  ASSERT_EQ(run.code, 0) << run.output;
  const std::vector<std::string> warnings = run.lines_with("experts starve, in layer");
  ASSERT_EQ(warnings.size(), 2U) << run.output;  // the first while it trains, and at the end
  EXPECT_THAT(warnings[0], HasSubstr("step 2: "));
  EXPECT_THAT(warnings[1], AllOf(Not(HasSubstr("step ")), HasSubstr("optimizer.groups")));

  const auto end = nlohmann::json::parse(folder.read("run/end.json"))["student"];
  EXPECT_GT(end["starved_experts"], 0);
  EXPECT_EQ(end["experts"], 64);
  EXPECT_FALSE(end["starved_layers"].empty());
  for (const auto& layer : end["starved_layers"])
    EXPECT_THAT(warnings[1], ::testing::ContainsRegex(fmt::format("in layers? [01, ]*{}", layer.get<int>())));
  EXPECT_EQ(folder.metrics("run")[3]["eval_starved_experts"], end["starved_experts"]);
  const std::vector<std::string> rows = run.lines_with("starved experts, of 64");
  ASSERT_EQ(rows.size(), 1U) << run.output;
  EXPECT_TRUE(rows[0].ends_with(" " + end["starved_experts"].dump())) << rows[0];
  for (const char* row : {"expert load: entropy, mean", "of the worst layer", "starved experts"}) {
    const std::vector<std::string> said = run.lines_with(row), again = folder.limbeck("eval run").lines_with(row);
    ASSERT_EQ(said.size(), 1U) << row;
    ASSERT_EQ(again.size(), 1U) << row;
    EXPECT_TRUE(said[0].ends_with(again[0].substr(again[0].rfind(' ')))) << said[0] << '\n' << again[0];  // after
  }
  const Outcome even = folder.limbeck("train tiny.textproto --steps 1 --out even");
  EXPECT_THAT(even.output, AllOf(HasSubstr("starved experts, of 8"), Not(HasSubstr("experts starve"))));
  EXPECT_THAT(folder.limbeck("train tiny.textproto --steps 1 --set model.moe.num_experts=0 --out dense").output,
              Not(HasSubstr("starved")));
}

TEST(Printing, AShapeThatNoExportFormatHoldsIsSaidWhenTrainingStarts) {
  const RunFolder folder("no_format");
  const auto notes = [&](const std::string& sets) {
    const Outcome run = folder.limbeck("train tiny.textproto --steps 1 --out run " + sets);
    EXPECT_EQ(run.code, 0) << run.output;
    return run.lines_with("no export format holds this model");
  };
  EXPECT_TRUE(notes("").empty());
  fs::remove_all(folder.path() / "run");
  const auto shared = notes("--set model.moe.shared_width=8");
  ASSERT_EQ(shared.size(), 1U);
  // What convert says when it is too late.
  const std::string why = "moe.shared_width is 8, expected 0: there are no shared experts (Mixtral)";
  EXPECT_THAT(shared[0], AllOf(HasSubstr("Hugging Face"), HasSubstr("GGUF"), HasSubstr(why)));
  for (const char* to : {"student", "student.gguf"}) {
    const Outcome convert = folder.limbeck(std::string("convert run ") + to);
    EXPECT_EQ(convert.code, 1);
    EXPECT_THAT(convert.output, HasSubstr(why));
  }
  fs::remove_all(folder.path() / "run");
  const auto mixed = notes("--set model.moe.dense_layers=[0]");
  ASSERT_EQ(mixed.size(), 1U);
  EXPECT_THAT(mixed[0], HasSubstr("moe.dense_layers: 1 of 2 layers have experts"));
}

TEST(RunFiles, AReportIsWrittenBesideTheRun) {
  const RunFolder folder("report");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 5 --out run").code, 0);
  const Outcome report = folder.limbeck("report run");
  ASSERT_EQ(report.code, 0) << report.output;
  EXPECT_THAT(report.output, HasSubstr("run/report.html"));
  const auto page = testing::parse_xml(folder.read("run/report.html"));
  EXPECT_THAT(page.text(), AllOf(HasSubstr("Expert load by layer"), HasSubstr("of 24, paused"), HasSubstr("Held-out")));
  EXPECT_EQ(folder.limbeck("report run --out other.html").code, 0);
  EXPECT_TRUE(fs::exists(folder.path() / "other.html"));
  EXPECT_EQ(folder.limbeck("report text").code, 2);
  const Outcome nowhere = folder.limbeck("report run --out nowhere/other.html");
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_EQ(nowhere.lines_with("limbeck: error").size(), 1U) << nowhere.output;
}

}  // namespace
}  // namespace limbeck::launch
