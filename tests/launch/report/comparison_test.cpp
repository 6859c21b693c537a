#include "launch/report/comparison.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::write_file;

class ComparisonTest : public ::testing::Test {
 protected:
  struct Made {
    std::string name;
    int steps = 20;  // of 20
    double rate = 1e-3;
    std::string start = {};
    std::string end = {};
    std::string line = {};
    std::string config = {};
    std::string data = {};
  };
  fs::path make(const Made& made) const {
    const fs::path path = folder_ / made.name;
    fs::create_directories(path / "checkpoints");
    write_file(path / "config.textproto",
               fmt::format("model {{ width: 32 }} data {{ text: \"text\" {} }} train {{ steps: "
                           "20 }} optimizer {{ rate: {} }} {}",
                           made.data, made.rate, made.config));
    std::string text;
    for (int step = 1; step <= made.steps; ++step)
      text +=
          fmt::format(R"({{"step":{},"time":{},"tokens":{},"loss":{},"tokens_per_s":500,"rss_bytes":104857600{}}}{})",
                      step, 1000 + 2 * step, 1000 * step, 4 - made.rate * step, made.line, "\n");
    if (made.steps > 0) write_file(path / "metrics.jsonl", text);
    if (!made.start.empty()) write_file(path / "start.json", made.start);
    if (!made.end.empty()) write_file(path / "end.json", made.end);
    return path;
  }
  RunResults run(const Made& made) const { return read_run(RunDirectory(make(made))); }

  static constexpr const char* teacher_end =
      R"({"step":20,"student":{"tokens":9,"bytes":36,"ce":2.5,"perplexity":12.18,"bits_per_byte":0.9017,"teacher_ce":2,)"
      R"("kl":0.75,"kl_median":0.5,"kl_p99":3,"top1_agreement":0.5,"sum_min":0.625},"sets":{"wiki":{"tokens":5,"ce":1.5,"perplexity":4.5}}})";
  /// What trainings wrote before what is not measured was left out.
  static constexpr const char* old_end =
      R"({"step":20,"student":{"tokens":9,"cross_entropy":2.25,"teacher_cross_entropy":0.0,"kl":0.0,"kl_median":0.0,)"
      R"("kl_p99":0.0,"agreement":0.0,"sum_min":0.0},"student_text":""})";

  testing::TemporaryFolder folder_;
};

/// The line of a table that begins so, blanks between its words as one.
std::string line_of(const std::string& table, const std::string& begin) {
  std::istringstream in(table);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(begin)) continue;
    std::istringstream words(line);
    std::string result;
    for (std::string word; words >> word;) result += (result.empty() ? "" : " ") + word;
    return result;
  }
  return "";
}

TEST_F(ComparisonTest, RunsOfAllKindsStandSideBySide) {
  const std::vector<RunResults> runs = {
      run({.name = "distilled", .end = teacher_end, .config = "teacher { source: \"t\" }"}),
      run({.name = "trained", .rate = 2e-3, .end = old_end}), run({.name = "young", .steps = 7}),
      run({.name = "new", .steps = 0})};
  const std::string table = comparison_table(runs);
  EXPECT_EQ(line_of(table, " "), "distilled trained young new");
  EXPECT_EQ(line_of(table, "state"), "state finished finished stopped stopped");
  EXPECT_EQ(line_of(table, "steps"), "steps 20 20 7 of 20 0 of 20");
  EXPECT_EQ(line_of(table, "tokens "), "tokens 20,000 20,000 7,000 -");
  EXPECT_EQ(line_of(table, "loss"), "loss, last step 3.9800 *3.9600 3.9930 -");
  EXPECT_EQ(line_of(table, "cross-entropy"), "cross-entropy, held out 2.5000 *2.2500 - -");
  EXPECT_EQ(line_of(table, "  perplexity"), "perplexity 12.18 *9.49 - -");
  EXPECT_EQ(line_of(table, "  bits/byte"), "bits/byte 0.9017 - - -");
  EXPECT_EQ(line_of(table, "KL"), "KL to the teacher 0.7500 - - -");
  EXPECT_EQ(line_of(table, "top-1"), "top-1 agreement 0.5000 - - -");
  EXPECT_EQ(line_of(table, "wiki: cross-entropy"), "wiki: cross-entropy 1.5000 - - -");
  EXPECT_EQ(line_of(table, "tokens/s"), "tokens/s 500 500 500 -");
  EXPECT_EQ(line_of(table, "training time"), "training time 40 s 40 s 14 s -");
  EXPECT_EQ(line_of(table, "peak memory"), "peak memory, first rank 100 MiB 100 MiB 100 MiB -");
  EXPECT_EQ(line_of(table, "ranks"), "");  // nobody knows
  EXPECT_EQ(line_of(table, "  optimizer.rate"), "optimizer.rate 0.001 0.002 0.001 0.001");
  EXPECT_EQ(line_of(table, "  teacher.source"), "teacher.source t - - -");
  EXPECT_THAT(table, HasSubstr("* the best"));
  std::istringstream in(table);
  for (std::string line; std::getline(in, line);) EXPECT_LE(line.size(), 100U) << line;
}

TEST_F(ComparisonTest, JsonHasWhatWasMeasuredAndNoMore) {
  const nlohmann::ordered_json json = comparison_json(
      {run({.name = "distilled", .end = teacher_end, .config = "teacher { source: \"t\" }"}),
       run({.name = "trained",
            .rate = 2e-3,
            .start = R"({"parameters":{"total":50,"active":40,"trainable":30},"starts":[{"step":0,"time":1000,)"
                     R"("ranks":2,"threads_per_rank":3,"layout":"ep2","command":"limbeck train x"}]})",
            .end = old_end})});
  const auto& distilled = json["runs"][0];
  const auto& trained = json["runs"][1];
  EXPECT_EQ(distilled["kind"], "distillation");
  EXPECT_EQ(distilled["kl"], 0.75);
  EXPECT_EQ(distilled["top1_agreement"], 0.5);
  EXPECT_EQ(distilled["sum_min"], 0.625);
  EXPECT_EQ(distilled["bits_per_byte"], 0.9017);
  EXPECT_EQ(distilled["sets"]["wiki"]["perplexity"], 4.5);
  EXPECT_TRUE(distilled["sets"]["wiki"]["tokens"].is_number_integer());
  for (const char* absent : {"parameters", "ranks", "command"}) EXPECT_FALSE(distilled.contains(absent)) << absent;
  EXPECT_EQ(trained["kind"], "training");
  EXPECT_EQ(trained["state"], "finished");
  EXPECT_EQ(trained["step"], 20);
  EXPECT_EQ(trained["ce"], 2.25);
  EXPECT_EQ(trained["parameters"], nlohmann::ordered_json({{"total", 50}, {"active", 40}, {"trainable", 30}}));
  EXPECT_EQ(trained["ranks"], 2);
  EXPECT_EQ(trained["threads_per_rank"], 3);
  EXPECT_EQ(trained["layout"], "ep2");
  EXPECT_EQ(trained["seconds"], 40);
  EXPECT_EQ(trained["wall_seconds"], 40);  // from the start of the program, two seconds before its first step ended
  EXPECT_EQ(trained["peak_bytes"], 104857600);
  for (const char* absent : {"kl", "top1_agreement", "sum_min", "teacher_ce", "sets"})
    EXPECT_FALSE(trained.contains(absent)) << absent;
  EXPECT_EQ(
      json["differing_fields"],
      nlohmann::ordered_json({"teacher.source", "teacher.cache_kind", "teacher.cache_tokens", "teacher.cache_window",
                              "teacher.cache_exact", "teacher.weight", "optimizer.rate"}));
  EXPECT_EQ(trained["config"], nlohmann::ordered_json({{"optimizer.rate", 0.002}}));
  EXPECT_EQ(json["best"]["ce"], nlohmann::ordered_json::array({1}));
  EXPECT_FALSE(json["best"].contains("kl"));
}

TEST_F(ComparisonTest, OfTwoRunsDifferencesAreSaid) {
  static constexpr const char* better =
      R"({"step":20,"student":{"tokens":9,"bytes":36,"ce":2.25,"perplexity":9.4877,"bits_per_byte":0.8115,"ece":0.125,)"
      R"("teacher_ce":2,"kl":0.5,"kl_median":0.25,"kl_p90":0.75,"kl_p99":2.5,"top1_agreement":0.625,"sum_min":0.75,)"
      R"("teacher_ece":0.0625},"sets":{"wiki":{"tokens":5,"ce":1.25,"perplexity":3.4903}}})";
  const std::vector<RunResults> two = {
      run({.name = "first", .end = teacher_end, .config = "teacher { source: \"t\" }"}),
      run({.name = "second", .rate = 2e-3, .end = better, .config = "teacher { source: \"t\" }"})};
  const std::string table = comparison_table(two);
  EXPECT_EQ(line_of(table, " "), "first second difference");
  EXPECT_EQ(line_of(table, "state"), "state finished finished");
  EXPECT_EQ(line_of(table, "cross-entropy"), "cross-entropy, held out 2.5000 *2.2500 -0.25");
  EXPECT_EQ(line_of(table, "KL"), "KL to the teacher 0.7500 *0.5000 -0.25");
  EXPECT_EQ(line_of(table, "  99 %"), "99 % 3.0000 *2.5000 -0.5");
  EXPECT_EQ(line_of(table, "  90 %"), "90 % - 0.7500");
  EXPECT_EQ(line_of(table, "calibration error"), "calibration error - 0.1250");
  EXPECT_EQ(line_of(table, "top-1"), "top-1 agreement 0.5000 *0.6250 +0.125");
  EXPECT_EQ(line_of(table, "acceptance"), "acceptance 0.6250 *0.7500 +0.125");
  EXPECT_EQ(line_of(table, "wiki: cross-entropy"), "wiki: cross-entropy 1.5000 *1.2500 -0.25");
  EXPECT_EQ(line_of(table, "tokens/s"), "tokens/s 500 500");  // not of the models
  EXPECT_EQ(line_of(table, "  optimizer.rate"), "optimizer.rate 0.001 0.002");
  std::istringstream in(table);
  for (std::string line; std::getline(in, line);) EXPECT_LE(line.size(), 100U) << line;
  const nlohmann::ordered_json json = comparison_json(two);
  EXPECT_EQ(json["differences"]["kl"], -0.25);
  EXPECT_EQ(json["differences"]["sets.wiki.ce"], -0.25);
  for (const char* absent : {"ece", "loss", "tokens"}) EXPECT_FALSE(json["differences"].contains(absent)) << absent;
  EXPECT_FALSE(comparison_json({two[0], two[1], two[0]}).contains("differences"));
  EXPECT_EQ(line_of(comparison_table({two[0], two[1], two[0]}), " "), "[1] [2] [3]");
}

TEST_F(ComparisonTest, TheTimeBetweenTwoStartsIsNotWorked) {
  // Steps end at 1002, 1004, ... 1040; the second start, at 1019.5, follows a pause since step 9 ended at 1018.
  const RunResults r = run({.name = "r",
                            .start = R"({"starts":[{"step":0,"time":1001,"ranks":1,"threads_per_rank":1},)"
                                     R"({"step":9,"time":1019.5,"ranks":1,"threads_per_rank":1}]})"});
  EXPECT_DOUBLE_EQ(*r.wall_seconds(), 17 + 20.5);
  // In few stretches a pause that is no longer than a step is not known.
  RecordReader few(r.path / "metrics.jsonl", 4);
  EXPECT_DOUBLE_EQ(*read_run(RunDirectory(r.path), few).wall_seconds(), 1 + 38);
}

TEST_F(ComparisonTest, ARunThatIsGoingOnIsSeenByItsLock) {
  const fs::path path = make({.name = "r", .steps = 3});
  write_file(path / "run.lock", "");
  EXPECT_EQ(read_run(RunDirectory(path)).state, RunState::Stopped);
  const int file = ::open((path / "run.lock").c_str(), O_RDWR);
  ASSERT_EQ(::flock(file, LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(read_run(RunDirectory(path)).state, RunState::Running);
  EXPECT_THAT(comparison_table({read_run(RunDirectory(path))}), HasSubstr("running"));
  ::close(file);
}

TEST_F(ComparisonTest, LongNamesAndValuesHaveLinesOfTheirOwn) {
  const std::string long_name(60, 'n'), long_value(70, 'v');
  std::vector<RunResults> runs;
  for (int i = 0; i < 6; ++i)
    runs.push_back(run({.name = long_name + std::to_string(i),
                        .config = fmt::format("generation {{ prompt: \"{}{}\" }}", long_value, i)}));
  const std::string table = comparison_table(runs);
  EXPECT_THAT(table, AllOf(HasSubstr("[6] " + runs[5].path.string() + "\n"), HasSubstr("  generation.prompt\n"),
                           HasSubstr("    [6]: " + long_value + "5\n")));
  EXPECT_EQ(line_of(table, "state"), "state stopped stopped stopped stopped stopped stopped");
  for (int i = 6; i < 11; ++i) runs.push_back(runs[0]);
  std::istringstream in(comparison_table(runs));
  int states = 0;
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("state")) continue;
    ++states;
    EXPECT_LE(line.size(), 100U);
  }
  EXPECT_GT(states, 1);
}

TEST_F(ComparisonTest, AnotherHeldOutSampleIsSaid) {
  const RunResults a = run({.name = "a"}), b = run({.name = "b", .data = "seed: 5"});
  EXPECT_THAT(comparison_table({a, b}), HasSubstr("not all of the same sample"));
  EXPECT_THAT(comparison_table({a, run({.name = "c", .rate = 0.5})}), Not(HasSubstr("not all of the same sample")));
}

TEST_F(ComparisonTest, NamesAreFitForATerminal) {
  const RunResults a = run({.name = "a\x1b[31m"}), b = run({.name = "b"});
  EXPECT_THAT(comparison_table({a, b}), Not(HasSubstr("\x1b")));
}

TEST_F(ComparisonTest, DamageIsNamed) {
  const auto error = [&](const Made& made) { return error_of([&] { run(made); }); };
  EXPECT_THAT(error({.name = "a", .end = R"({"step":20,"student":{"tokens":1,"kl":"low"}})"}),
              HasSubstr("end.json: not the end of a run: student.kl is \"low\", expected a number"));
  EXPECT_THAT(error({.name = "b", .end = R"({"student":{}})"}), HasSubstr("end.json: not the end of a run: step"));
  EXPECT_THAT(error({.name = "c", .start = R"({"sets":[]})"}), HasSubstr("start.json: not the start of a run: sets"));
  EXPECT_THAT(error({.name = "d", .end = R"({"step":20,"best":{"figure":"ce","step":1}})"}), HasSubstr("best.value"));
  EXPECT_THAT(error({.name = "e", .line = R"(,"loss":NaN)"}), HasSubstr("metrics.jsonl:1: expected a JSON object"));
  EXPECT_EQ(error({.name = "f", .end = R"({"step":20,"student":{"tokens":1,"kl":null,"cross_entropy":1}})"}), "");
}

TEST_F(ComparisonTest, TheLastEvaluationStandsInForTheEnd) {
  const RunResults r = run({.name = "r", .steps = 5, .line = R"(,"eval_ce":3.5,"eval_tokens":7,"eval_kl":null)"});
  EXPECT_EQ(r.after->figure("ce"), 3.5);
  EXPECT_FALSE(r.after->figure("kl"));
  EXPECT_EQ(r.after_step, 5);
}

/// Two sets of the config, in an order that is not the alphabet's, and a source of a mixture.
constexpr const char* sets_end =
    R"({"step":20,"ended_by":"train.steps","sets":{"a":{"tokens":5,"ce":1.5},"z":{"tokens":6,"ce":2.5},)"
    R"("held_out/a_rather_long_name":{"tokens":7,"ce":3.5}}})";
constexpr const char* sets_config = R"(evaluation { set { name: "z" text: "z" } set { name: "a" text: "a" } })";

TEST_F(ComparisonTest, SetsStandInTheConfigsOrderWithWhatWasBefore) {
  const RunResults r = run({.name = "r",
                            .start = R"({"sets":{"a":{"tokens":5,"ce":4.5},"z":{"tokens":6,"ce":5.5}}})",
                            .end = sets_end,
                            .config = sets_config});
  EXPECT_THAT(r.set_names(), ElementsAre("z", "a", "held_out/a_rather_long_name"));
  const std::string text = results_text(r);
  EXPECT_EQ(line_of(text, "z: cross"), "z: cross-entropy 2.5000 (5.5000 before)");
  EXPECT_EQ(line_of(text, "a: cross"), "a: cross-entropy 1.5000 (4.5000 before)");
  EXPECT_LT(text.find("z: cross"), text.find("a: cross"));
  EXPECT_EQ(results_json(r)["before"]["sets"]["z"]["ce"], 5.5);
  EXPECT_EQ(results_json(r)["sets"].begin().key(), "z");
}

TEST_F(ComparisonTest, ColumnsLineUpWhateverTheLabels) {
  const RunResults r = run({.name = "r", .end = sets_end, .config = sets_config});
  for (const std::string& text : {results_text(r), comparison_table({r})}) {
    const auto column = [&](const std::string& label, const std::string& value) {
      const std::size_t line = text.find(label);
      return text.find(value, line) - line + value.size();
    };
    EXPECT_EQ(column("z: cross-entropy", "2.5000"), column("held_out/a_rather_long_name: cross", "3.5000")) << text;
    EXPECT_THAT(text, HasSubstr("cross-entropy  "));
  }
  // One that is too long for its column stands above its row.
  const std::string name(60, 'n');
  const std::string table =
      comparison_table({run({.name = "l", .end = R"({"step":20,"sets":{")" + name + R"(":{"tokens":5,"ce":1.5}}})"})});
  EXPECT_THAT(table, HasSubstr(name + ": cross-entropy\n    "));
}

TEST_F(ComparisonTest, WhyARunHasEndedIsSaid) {
  const auto ended = [&](const std::string& name, int steps, const std::string& why) {
    return run({.name = name,
                .steps = steps,
                .end = fmt::format(R"({{"step":{}{}}})", steps, why.empty() ? "" : R"(,"ended_by":")" + why + '"')});
  };
  EXPECT_EQ(state_text(ended("a", 20, "train.steps")), "finished");
  EXPECT_EQ(state_text(ended("b", 8, "train.stop_after_evaluations_without_gain")),
            "stopped early at step 8 (patience)");
  EXPECT_EQ(state_text(ended("c", 7, "--steps")), "7 of 20 steps, paused by --steps");
  EXPECT_EQ(state_text(ended("d", 6, "")), "6 of 20 steps, stopped");             // of an older version
  EXPECT_EQ(state_text(ended("e", 5, "train.steps")), "5 of 20 steps, stopped");  // which were fewer then
  EXPECT_EQ(state_text(ended("f", 20, "")), "finished");
  EXPECT_THAT(error_of([&] { ended("g", 4, "boredom"); }), HasSubstr("end.json: not the end of a run: ended_by"));
}

TEST_F(ComparisonTest, AMixtureIsComparedSourceBySource) {
  const RunResults a = run({.name = "a"});
  RunResults b = a, c = a;
  b.config.data.text = c.config.data.text = {};
  b.config.data.sources = {{.text = {"w"}, .name = "web"}, {.text = {"c"}, .name = "code"}};
  c.config.data.sources = b.config.data.sources;
  c.config.data.sources[1].weight = 3;
  const std::string table = comparison_table({b, c});
  EXPECT_EQ(line_of(table, "  data.sources[code].weight"), "data.sources[code].weight 1 3");
  EXPECT_THAT(table, HasSubstr("not all of the same sample"));
  EXPECT_THAT(comparison_table({a, b}), Not(HasSubstr("text: \"")));  // no textproto
}

TEST_F(ComparisonTest, OneRunsResultsHaveWhatWasBefore) {
  const RunResults r = run({.name = "r",
                            .start = R"({"student":{"tokens":9,"cross_entropy":5.5}})",
                            .end = R"({"step":20,"student":{"tokens":9,"cross_entropy":2.25},)"
                                   R"("best":{"figure":"ce","value":2.125,"step":10}})"});
  const std::string text = results_text(r);
  EXPECT_EQ(line_of(text, "cross-entropy"), "cross-entropy, held out 2.2500 (5.5000 before)");
  EXPECT_EQ(line_of(text, "best checkpoint"), "best checkpoint step 10, by ce: 2.1250");
  EXPECT_EQ(line_of(text, "state"), "state finished");
  const RunResults moe = run({.name = "moe",
                              .end = R"({"step":20,"student":{"tokens":9,"ce":2,"load_entropy":0.9,"experts":8,)"
                                     R"("load_worst_entropy":0.75,"starved_experts":3,"starved_layers":[1,2]}})"});
  const RunResults old_moe =
      run({.name = "old_moe",
           .end = R"({"step":20,"student":{"tokens":9,"cross_entropy":2,"load":{"mean_entropy":0.9,)"
                  R"("worst_entropy":0.75,"num_starved":3,"starved_layers":[1,2]}}})"});
  for (const RunResults& either : {moe, old_moe}) {
    EXPECT_EQ(line_of(results_text(either), "expert load"), "expert load: entropy 0.9000");
    EXPECT_EQ(line_of(results_text(either), "  of the worst"), "of the worst layer 0.7500");
    EXPECT_EQ(line_of(results_text(either), "  starved"), "starved experts 3");
  }
  EXPECT_EQ(results_json(r)["before"]["ce"], 5.5);
}

}  // namespace
}  // namespace limbeck::launch
