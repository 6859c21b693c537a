#include "launch/report/report.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/error.h"
#include "launch/report/distill_report.h"
#include "launch/run/run_facts.h"
#include "launch/run/run_record.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/xml.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::parse_xml;
using testing::write_file;
using testing::XmlNode;

/// A run directory written by hand.
class ReportTest : public ::testing::Test {
 protected:
  void config(const std::string& text) { write_file(run_ / "config.textproto", text); }
  void metrics(const std::string& text) { write_file(run_ / "metrics.jsonl", text); }
  void SetUp() override {
    fs::create_directories(run_);
    config("model { width: 32 } data { text: \"text\" } train { steps: 400 }");
  }
  std::string page() const { return report_page({read_run(RunDirectory(run_))}); }
  std::string error() const {
    return error_of([this] { page(); });
  }

  static std::vector<std::string> titles(const XmlNode& page) {
    std::vector<std::string> found;
    for (const XmlNode* caption : page.all("figcaption")) found.push_back(caption->all("b").at(0)->text());
    return found;
  }
  static std::string line(int step, const std::string& more) {
    return fmt::format(R"({{"step":{},"time":{},"tokens":{},"loss":{},"lr":1e-3,"grad_norm":{},"tokens_per_s":900.5,)"
                       R"("mfu":0.25,"rss_bytes":{},"ce":{}{}}})",
                       step, 1.7e9 + step, 512 * step, 2 + 3 / std::sqrt(step), 1 + step % 3, 1 << 28, 3.5, more) +
           "\n";
  }
  static std::string teacher_fields(int step) {
    return fmt::format(R"(,"kl":{},"teacher_ce":3.1,"top1_agreement":0.4)", 1.0 / step) +
           (step % 50 == 0
                ? R"(,"eval_ce":3.9,"eval_tokens":4096,"eval_teacher_ce":3.0,"eval_kl":0.9,"eval_kl_median":0.5,)"
                  R"("eval_kl_p99":7.0,"eval_top1_agreement":0.5,"eval_sum_min":0.6)"
                : "");
  }
  static std::string load_fields(int step) {
    const char* counts = step % 10 == 0 ? R"(,"assignments":[60,4,0,0])" : "";
    return fmt::format(R"(,"balance_loss":0.01,"z_loss":0.002,"grad_norm_balance":0.03,"grad_norm_z":0.004)"
                       R"(,"expert_load":[{{"layer":1,"min":0,"max":0.9,"entropy":0.17{}}},)"
                       R"({{"layer":2,"min":0.2,"max":0.3,"entropy":0.99{}}}])",
                       counts, counts);
  }
  static Evaluation evaluation(double kl) {
    return {.tokens = 4096,
            .cross_entropy = 3.5,
            .teacher_cross_entropy = 3,
            .kl = kl,
            .kl_median = kl / 2,
            .kl_p99 = 5 * kl,
            .agreement = 0.5,
            .sum_min = 0.6};
  }

  testing::TemporaryFolder folder_;
  fs::path run_ = folder_ / "a run";
};

TEST_F(ReportTest, DistillationWithExpertsHasEveryPlot) {
  config(
      "teacher { source: \"big.gguf\" } student_init { num_layers: 2 } data { text: \"text\" } train { steps: 400 } "
      "generation { prompt: \"Once\" }");
  std::string text;
  for (int step = 1; step <= 400; ++step) text += line(step, teacher_fields(step) + load_fields(step));
  metrics(text);
  write_start(run_, {.student = evaluation(4.25),
                     .unigram = evaluation(6.5),
                     .teacher_text = " upon a time",
                     .student_text = " once once",
                     .cut = {.layers = {0, 3}}});
  write_end(run_, {.step = 400, .student = evaluation(1.125), .student_text = " there was"});
  const XmlNode page = parse_xml(this->page());
  for (const char* title :
       {"Loss", "KL to the teacher", "Cross-entropy", "Top-1 agreement", "Learning rate", "Gradient norm", "Speed",
        "Use of the machine", "Memory", "Router losses", "Router losses: gradients", "Expert load by layer",
        "Expert load: entropy", "Expert load: shares", "Acceptance"})
    EXPECT_THAT(titles(page), Contains(title));
  EXPECT_EQ(page.all("svg").size() + 3, page.all("figure").size());  // three continuations
  EXPECT_THAT(titles(page), AllOf(Contains("Expert load over time"), Contains("Expert load: starved")));
  EXPECT_EQ(page.all("h1").at(0)->text(), "a run");
  const std::string all = page.text();
  for (const char* shown :
       {"4.2500", "1.1250", "6.5000", "upon a time", "once once", "there was", "big.gguf", "204,800",
        "of 400, finished", "from 2023-11-14 22:13 UTC", "6 min 39 s", "901", "0.25 GiB", "steps: 400"})
    EXPECT_THAT(all, HasSubstr(shown));
  // Nothing is fetched from anywhere.
  EXPECT_TRUE(page.all("link").empty() && page.all("img").empty());
  for (const XmlNode* script : page.all("script"))
    for (const auto& [name, value] : script->attributes) EXPECT_THAT(name + value, Not(HasSubstr("src")));
}

/// The points of the figure of this title that are drawn as marks, as the page says them.
std::vector<std::string> marks_of(const XmlNode& page, const std::string& title) {
  std::vector<std::string> marks;
  for (const XmlNode* figure : page.all("figure")) {
    if (figure->all("figcaption").at(0)->all("b").at(0)->text() != title) continue;
    for (const XmlNode* circle : figure->all("circle")) marks.push_back(circle->all("title").at(0)->text());
  }
  return marks;
}

TEST_F(ReportTest, CurvesOfTheHeldOutSampleBeginAtTheStartAndEndAtTheEnd) {
  metrics(line(1, "") +
          line(2, R"(,"eval_ce":11,"eval_tokens":4096,"eval_teacher_ce":3.0,"eval_kl":12,"eval_kl_median":13,)"
                  R"("eval_kl_p99":14,"eval_top1_agreement":0.15,"eval_sum_min":0.16)") +
          line(3, ""));
  write_start(run_, {.student = {.tokens = 4096,
                                 .cross_entropy = 21,
                                 .teacher_cross_entropy = 3,
                                 .kl = 22,
                                 .kl_median = 23,
                                 .kl_p99 = 24,
                                 .agreement = 0.25,
                                 .sum_min = 0.26},
                     .unigram = evaluation(6.5),
                     .teacher_text = "",
                     .student_text = ""});
  write_end(run_, {.step = 3,
                   .student = {.tokens = 4096,
                               .cross_entropy = 31,
                               .teacher_cross_entropy = 3,
                               .kl = 32,
                               .kl_median = 33,
                               .kl_p99 = 34,
                               .agreement = 0.35,
                               .sum_min = 0.36},
                   .student_text = ""});
  const XmlNode page = parse_xml(this->page());
  using ::testing::ElementsAre;
  EXPECT_THAT(marks_of(page, "Cross-entropy"), ElementsAre("step 0: 21", "step 2: 11", "step 3: 31"));
  EXPECT_THAT(marks_of(page, "KL to the teacher"),
              ElementsAre("step 0: 22", "step 2: 12", "step 3: 32", "step 0: 23", "step 2: 13", "step 3: 33"));
  EXPECT_THAT(marks_of(page, "KL to the teacher, 90 and 99 %"), ElementsAre("step 0: 24", "step 2: 14", "step 3: 34"));
  EXPECT_THAT(marks_of(page, "Top-1 agreement"), ElementsAre("step 0: 0.25", "step 2: 0.15", "step 3: 0.35"));
  EXPECT_THAT(marks_of(page, "Acceptance"), ElementsAre("step 0: 0.26", "step 2: 0.16", "step 3: 0.36"));
}

// Of a teacher of which a part is known: bounds, or an estimate, stand where what is whole would.
TEST_F(ReportTest, BoundsAndEstimatesAreDrawnAsWhatTheyAreOf) {
  const auto figures = [&](Known known, double kl) {
    Evaluation e = evaluation(kl);
    e.known = known;
    e.kl_p90 = 3 * kl;
    return e;
  };
  const auto page_of = [&](Known known) {
    metrics(line(1, "") + line(2, ""));
    write_start(run_, {.student = figures(known, 4.25),
                       .unigram = evaluation(6.5),
                       .sets = {{"web", figures(known, 0.5)}},
                       .teacher_text = "",
                       .student_text = ""});
    write_end(
        run_,
        {.step = 2, .student = figures(known, 1.125), .student_text = "", .sets = {{"web", figures(known, 0.25)}}});
    return parse_xml(this->page());
  };
  const auto cards_of = [](const XmlNode& page) {
    std::vector<std::string> cards;
    for (const XmlNode* card : page.all("dl").at(0)->all("div")) cards.push_back(card->text());
    return cards;
  };
  using ::testing::ElementsAre;
  const XmlNode kept = page_of(Known::Kept);
  EXPECT_THAT(cards_of(kept), Contains(AllOf(HasSubstr("KL"), HasSubstr(">=1.1250"), HasSubstr(">=4.2500 before"))));
  EXPECT_THAT(marks_of(kept, "KL to the teacher, 90 and 99 %"),
              ElementsAre("step 0: 21.25", "step 2: 5.625", "step 0: 12.75", "step 2: 3.375"));
  EXPECT_THAT(marks_of(kept, "Acceptance"), ElementsAre("step 0: 0.6", "step 2: 0.6"));
  EXPECT_THAT(marks_of(kept, "KL to the teacher by set"), ElementsAre("step 0: 0.5", "step 2: 0.25"));
  EXPECT_THAT(marks_of(kept, "Acceptance by set"), ElementsAre("step 0: 0.6", "step 2: 0.6"));
  const XmlNode drawn = page_of(Known::Drawn);
  EXPECT_THAT(cards_of(drawn), Contains(AllOf(HasSubstr("KL"), HasSubstr("~1.1250"))));
  EXPECT_THAT(marks_of(drawn, "KL to the teacher by set"), ElementsAre("step 0: 0.5", "step 2: 0.25"));
}

TEST_F(ReportTest, TrainingOfADenseModelHasNoMoreThanItKnows) {
  metrics(line(1, "") + line(2, ",\"eval_ce\":3.25,\"eval_tokens\":100,\"new_field\":7"));
  const XmlNode page = parse_xml(this->page());
  EXPECT_THAT(titles(page), AllOf(Contains("Loss"), Contains("Cross-entropy"), Contains("new_field"),
                                  Not(Contains("KL to the teacher")), Not(Contains("Expert load by layer"))));
  EXPECT_THAT(page.text(), AllOf(HasSubstr("of 400, stopped"), HasSubstr("3.2500"), Not(HasSubstr("unigram"))));
  EXPECT_EQ(page.all("table").size(), 1U);
}

TEST_F(ReportTest, OneStepIsEnough) {
  metrics(line(1, load_fields(1)));
  EXPECT_THAT(titles(parse_xml(page())), Contains("Loss"));
}

TEST_F(ReportTest, AnEndOfAnEarlierStepIsNotTheEnd) {
  metrics(line(1, "") + line(2, ""));
  write_end(run_, {.step = 1, .student = evaluation(1), .student_text = ""});
  EXPECT_THAT(parse_xml(page()).text(), HasSubstr("of 400, stopped"));
}

TEST_F(ReportTest, AKilledRunsHalfLineIsLeftOut) {
  metrics(line(1, "") + line(2, "").substr(0, 40));
  EXPECT_THAT(parse_xml(page()).text(), AllOf(HasSubstr("half written"), HasSubstr("of 400, stopped")));
}

TEST_F(ReportTest, WhatComesFromFilesIsEscaped) {
  run_ = folder_ / "<b> & 'c'";
  fs::create_directories(run_);
  config(
      "teacher { source: \"<script>x</script>\" } student_init { num_layers: 2 } data { text: \"text\" } "
      "generation { prompt: \"]]> <i>&amp;\" }");
  metrics(line(1, R"(,"<u>\"":1)"));
  write_start(run_, {.student = evaluation(1),
                     .unigram = evaluation(2),
                     .teacher_text = "a\x1b[1m\xff<p>",
                     .student_text = "</html>"});
  const XmlNode page = parse_xml(this->page());
  EXPECT_EQ(page.all("h1").at(0)->text(), "<b> & 'c'");
  for (const XmlNode* script : page.all("script")) EXPECT_NE(script->text(), "x");
  EXPECT_TRUE(page.all("i").empty() && page.all("u").empty() && page.all("p").size() >= 1);
  EXPECT_THAT(titles(page), Contains("<u>\""));
  EXPECT_THAT(page.text(), AllOf(HasSubstr("]]> <i>&amp;"), HasSubstr("</html>"), HasSubstr("<script>x</script>")));
}

TEST_F(ReportTest, ManyStepsStayUnderAMegabyte) {
  std::string text;
  for (int step = 1; step <= 8000; ++step) text += line(step, teacher_fields(step) + load_fields(step));
  metrics(text);
  const std::string page = this->page();
  EXPECT_LT(page.size(), 1000000U);
  parse_xml(page);
}

TEST_F(ReportTest, DamageIsNamedByFileAndLine) {
  struct Case {
    std::string second_line;
    const char* what;
  };
  for (const Case& c : std::initializer_list<Case>{
           {"nonsense", "expected a JSON object"},
           {"{\"loss\":1}", "\"step\""},
           {"{\"step\":0}", "step is 0, expected 1 to"},
           {"{\"step\":2000000000000000}", "expected 1 to"},
           {"{\"step\":2,\"loss\":\"low\"}", "loss is string, expected a number"},
           {"{\"step\":2,\"loss\":true}", "loss is boolean"},
           {"{\"step\":2,\"loss\":1e999}", "expected a JSON object"},
           {"{\"step\":2,\"expert_load\":{}}", "expert_load is object"},
           {"{\"step\":2,\"expert_load\":[3]}", "whole number \"layer\""},
           {"{\"step\":2,\"expert_load\":[{\"layer\":0,\"min\":\"x\"}]}", "expert_load.min is string"},
           {"{\"step\":2,\"expert_load\":[{\"layer\":0,\"assignments\":[-1]}]}", "expert_load.assignments"},
           {"{\"step\":2,\"loss\":NaN}", "expected a JSON object"},
           {"{\"step\":2,\"eval_sets\":3}", "eval_sets is number"},
           {"{\"step\":2,\"eval_sets\":{\"a\":[]}}", "eval_sets.a is array"},
           {"{\"step\":2,\"exposed_s\":3}", "exposed_s is number"},
           {"{\"step\":2,\"exposed_s\":{\"tp\":\"x\"}}", "exposed_s.tp is string"},
           {"{\"step\":2,\"sent_bytes\":{\"tp\":3}}", "sent_bytes.tp is number"},
           {"{\"step\":2,\"sent_bytes\":{\"tp\":{\"inside\":[]}}}", "sent_bytes.tp.inside is array"}}) {
    metrics(line(1, "") + c.second_line + "\n" + line(3, ""));
    EXPECT_THAT(error(), AllOf(HasSubstr("metrics.jsonl:2: "), HasSubstr(c.what), Not(HasSubstr("\n"))))
        << c.second_line;
  }
  metrics("");
  EXPECT_THAT(error(), HasSubstr("metrics.jsonl: has no line yet"));
  metrics(line(1, ""));
  write_file(run_ / "start.json", "{\"student\":");
  EXPECT_THAT(error(), HasSubstr("start.json: not the start of a run"));
  fs::remove(run_ / "start.json");
  write_file(run_ / "end.json", "[]");
  EXPECT_THAT(error(), HasSubstr("end.json: not the end of a run"));
  config("trian { }");
  EXPECT_THAT(error(), HasSubstr("config.textproto:1:"));
}

TEST_F(ReportTest, AFolderThatIsNoRunIsWrongUse) {
  fs::remove(run_ / "config.textproto");
  EXPECT_THAT(error(), AllOf(HasSubstr("a run: is no run directory"), HasSubstr("metrics.jsonl")));
  EXPECT_THROW(page(), core::UsageError);
  EXPECT_THROW(read_run(RunDirectory("/no/such/run")), core::UsageError);
}

TEST_F(ReportTest, NullsAreLeftOutOfTheColumns) {
  metrics("{\"step\":1,\"loss\":2}\n{\"step\":2,\"loss\":null}\n{\"step\":3,\"loss\":4}\n");
  const RunRecord record = RecordReader(run_ / "metrics.jsonl").read();
  EXPECT_THAT(record.series.at("loss").steps, ::testing::ElementsAre(1, 3));
  EXPECT_THAT(record.series.at("loss").values, ::testing::ElementsAre(2, 4));
  EXPECT_EQ(record.first_step, 1);
  EXPECT_EQ(record.last_step, 3);
  EXPECT_EQ(record.last("loss"), 4);
  EXPECT_EQ(record.last("kl", -1), -1);
  EXPECT_TRUE(record.is_whole);
}

/// Means of the steps that have them: here of steps of 0.5 and 1.5 seconds, behind one of 3.
TEST_F(ReportTest, TellsWhatEachAxisSentAndWaitedFor) {
  const auto with = [](double seconds, double tp, double dp, int bytes) {
    return fmt::format(
        R"(,"seconds":{},"exposed_s":{{"tp":{},"dp":{}}},"sent_bytes":{{"tp":{{"inside":{},"across":0}},)"
        R"("dp":{{"inside":16,"across":{}}}}})",
        seconds, tp, dp, bytes, 10 * bytes);
  };
  metrics(line(1, R"(,"seconds":3)") + line(2, with(3.5, 0.125, 0.01, 200'000)) +
          line(3, with(5, 0.375, 0.03, 400'000)));
  const XmlNode page = parse_xml(this->page());
  std::vector<std::string> rows;
  for (const XmlNode* row : page.all("tr")) {
    std::string cells;
    for (const char* cell : {"th", "td"})
      for (const XmlNode* each : row->all(cell)) cells += each->text() + '|';
    rows.push_back(cells);
  }
  EXPECT_THAT(rows, AllOf(Contains("dp|16|3.00M|0.0200|2.0|"), Contains("tp|300.0k|0|0.2500|25.0|")));
  EXPECT_THAT(titles(page), Contains("Exposed communication"));
  EXPECT_THAT(titles(page), Not(Contains(HasSubstr("exposed_s"))));  // shown once

  metrics(line(1, ""));
  EXPECT_THAT(this->page(), AllOf(Not(HasSubstr("Communication by axis")), Not(HasSubstr("Exposed communication"))));
}

// --- several runs

class ReportOfSeveral : public ReportTest {
 protected:
  /// A run of that many steps, whose loss begins at `loss`.
  RunResults run(const std::string& name, int steps, double loss, const std::string& more = "") const {
    const fs::path path = folder_ / name;
    fs::create_directories(path);
    write_file(
        path / "config.textproto",
        fmt::format("model {{ width: 32 }} data {{ text: \"text\" }} train {{ steps: 400 }} optimizer {{ rate: {} }} "
                    "generation {{ prompt: \"Once\" }}",
                    loss / 1000));
    std::string text;
    for (int step = 1; step <= steps; ++step)
      text += fmt::format(R"({{"step":{},"time":{},"tokens":{},"loss":{},"tokens_per_s":100{}}}{})", step, 1000 + step,
                          200 * step, loss / step, more, "\n");
    write_file(path / "metrics.jsonl", text);
    return read_run(RunDirectory(path));
  }
  /// The data of the figure of this title.
  static nlohmann::json data_of(const XmlNode& page, const std::string& title) {
    for (const XmlNode* figure : page.all("figure"))
      if (figure->all("figcaption").at(0)->all("b").at(0)->text() == title)
        return nlohmann::json::parse(figure->all("script").at(0)->text());
    return nullptr;
  }
};

TEST_F(ReportOfSeveral, EachFigureHasALineARun) {
  const std::vector<RunResults> runs = {run("a", 4, 8, load_fields(1)), run("<b>&\"c", 2, 6, load_fields(1)),
                                        run("c", 3, 7, R"(,"eval_ce":2.5,"eval_tokens":64)")};
  const std::string text = report_page(runs);
  const XmlNode page = parse_xml(text);
  EXPECT_EQ(page.all("h1").at(0)->text(), "3 runs");
  const nlohmann::json loss = data_of(page, "Loss");
  ASSERT_EQ(loss["curves"].size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(loss["curves"][i]["label"], runs[i].name);
    EXPECT_EQ(loss["curves"][i]["run"], i);
    EXPECT_EQ(loss["curves"][i]["colour"], i);
  }
  EXPECT_EQ(loss["curves"][1]["y"], nlohmann::json({6, 3}));
  EXPECT_EQ(data_of(page, "Cross-entropy, held out")["curves"][0]["run"], 2);
  EXPECT_EQ(data_of(page, "Expert load: entropy, worst layer")["curves"].size(), 2U);
  EXPECT_THAT(titles(page), AllOf(Contains("Expert load over time, a"), Contains("Expert load over time, <b>&\"c")));
  // Without a script too, the lines lie there: 4 steps over the width of the axis.
  const std::string drawn = text.substr(text.find("<b>Loss</b>"), text.find("</svg>") - text.find("<b>Loss</b>"));
  for (const char* colour : {"line c0", "line c1", "line c2"}) EXPECT_THAT(drawn, HasSubstr(colour));
  EXPECT_THAT(drawn, HasSubstr("class=\"key curve c1\">&lt;b&gt;&amp;&quot;c</span>"));
}

TEST_F(ReportOfSeveral, TheScriptKnowsTokensAndTimesOfEachRun) {
  const XmlNode page = parse_xml(report_page({run("a", 3, 8), run("b", 2, 6, R"(,"seconds":7)")}));
  nlohmann::json data;
  for (const XmlNode* script : page.all("script"))
    if (script->attributes.contains("id")) data = nlohmann::json::parse(script->text());
  EXPECT_EQ(data["runs"][0]["name"], "a");
  EXPECT_EQ(data["runs"][0]["step"], nlohmann::json({0, 1, 2, 3, 3}));
  EXPECT_EQ(data["runs"][0]["tokens"], nlohmann::json({0, 200, 400, 600, 600}));
  EXPECT_EQ(data["runs"][0]["seconds"], nlohmann::json({0, 2, 4, 6, 6}));  // 200 tokens at 100 a second
  EXPECT_EQ(data["runs"][1]["seconds"], nlohmann::json({0, 7, 7, 7}));
  EXPECT_EQ(data["first"], 1);
}

TEST_F(ReportOfSeveral, TheTableHasTheirDifferences) {
  const XmlNode page = parse_xml(report_page({run("a", 4, 8), run("b", 4, 6)}));
  const XmlNode* table = page.all("table").at(0);
  std::vector<std::string> rows;
  for (const XmlNode* row : table->all("tr")) {
    std::string text;
    for (const XmlNode& cell : row->children)
      if (!cell.name.empty()) text += (text.empty() ? "" : "|") + cell.text();
    rows.push_back(text);
  }
  EXPECT_THAT(rows, AllOf(Contains("state|stopped|stopped"), Contains("steps|4 of 400|4 of 400"),
                          Contains("loss, last step|2.0000|1.5000"), Contains("optimizer.rate|0.008|0.006")));
  ASSERT_EQ(table->all("td").size() % 2, 0U);
  std::vector<std::string> best;
  for (const XmlNode* cell : table->all("td"))
    if (cell->attributes.contains("class") && cell->attributes.at("class") == "best") best.push_back(cell->text());
  EXPECT_THAT(best, ::testing::ElementsAre("1.5000"));
}

TEST_F(ReportOfSeveral, SixLongRunsStayUnderTwoMegabytes) {
  std::vector<RunResults> runs;
  for (const char* name : {"a", "b", "c", "d", "e", "f"})
    runs.push_back(run(name, 3000, 8, load_fields(10) + teacher_fields(50)));
  const std::string page = report_page(runs);
  EXPECT_LT(page.size(), 2000000U);
  parse_xml(page);
}

TEST_F(ReportTest, ATrainingShowsItsContinuationAndHowItWasStarted) {
  config("model { width: 32 } data { text: \"text\" } train { steps: 1 } generation { prompt: \"Once\" }");
  metrics(line(1, ""));
  write_file(run_ / "end.json", R"({"step":1,"student_text":" upon <a> time"})");
  add_to_start_file(run_, to_json(RunFacts{.model = ParameterFigures{1'234'567, 234'567, 1'200'000},
                                           .teacher = {},
                                           .starts = {{.step = 0,
                                                       .time = 1.7e9,
                                                       .command = "limbeck train x.textproto --out '<r>'",
                                                       .ranks = 2,
                                                       .layout = "ep2",
                                                       .threads = 3,
                                                       .host = "node7"}}}));
  const XmlNode page = parse_xml(this->page());
  for (const char* shown : {"“Once” goes on", " upon <a> time", "by the model after step 1", "1.23M", "234.6k active",
                            "limbeck train x.textproto --out '<r>'", "2 ranks, layout ep2, 3 threads each", "node7"})
    EXPECT_THAT(page.text(), HasSubstr(shown));
}

TEST_F(ReportTest, SetsAreDrawnAndTold) {
  metrics(line(1, R"(,"eval_ce":3,"eval_tokens":9,"eval_bytes":30,"eval_perplexity":20.5,"eval_bits_per_byte":1.3,)"
                  R"("eval_sets":{"wiki":{"tokens":8,"ce":2.5,"bits_per_byte":1.25}})") +
          line(2, R"(,"eval_ce":3,"eval_tokens":9,"eval_bytes":30,"eval_perplexity":18.25,"eval_bits_per_byte":1.25,)"
                  R"("eval_sets":{"wiki":{"tokens":8,"ce":2.25,"bits_per_byte":1.125}})"));
  write_file(run_ / "start.json",
             R"({"student":{"tokens":9,"bytes":30,"ce":4,"perplexity":54.5,"bits_per_byte":1.75,"experts":4,)"
             R"("load_worst_layer":1},"sets":{"wiki":{"tokens":8,"ce":5.5,"bits_per_byte":3}}})");
  const XmlNode page = parse_xml(this->page());
  EXPECT_THAT(marks_of(page, "Cross-entropy by set"),
              ::testing::ElementsAre("step 0: 5.5", "step 1: 2.5", "step 2: 2.25"));
  EXPECT_THAT(marks_of(page, "Bits/byte by set"), ::testing::ElementsAre("step 0: 3", "step 1: 1.25", "step 2: 1.125"));
  EXPECT_THAT(marks_of(page, "Bits/byte"), ::testing::ElementsAre("step 0: 1.75", "step 1: 1.3", "step 2: 1.25"));
  EXPECT_THAT(marks_of(page, "Perplexity"), ::testing::ElementsAre("step 0: 54.5", "step 1: 20.5", "step 2: 18.25"));
  for (const char* alone : {"eval_bytes", "eval_experts", "eval_load_worst_layer"})
    EXPECT_THAT(titles(page), Not(Contains(alone)));
  EXPECT_THAT(page.text(), AllOf(HasSubstr("wiki: bits/byte"), HasSubstr("5.5000"), HasSubstr("1.1250")));
}

}  // namespace
}  // namespace limbeck::launch
