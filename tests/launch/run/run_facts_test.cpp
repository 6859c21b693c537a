#include "launch/run/run_facts.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using testing::error_of;
using ::testing::HasSubstr;

RunFacts some_facts() {
  return {.model = ParameterFigures{100, 60, 90},
          .teacher = ParameterFigures{1000, 1000, 0},
          .starts = {{.step = 0,
                      .time = 1.5e9,
                      .command = "limbeck train a.textproto",
                      .ranks = 2,
                      .layout = "dp2",
                      .teacher_layout = "pp2"},
                     {.step = 40,
                      .time = 1.6e9,
                      .command = "limbeck train a.textproto --resume --out 'a b'",
                      .ranks = 1,
                      .layout = "dp1",
                      .teacher_ranks = 2,
                      .teacher_layout = "tp2",
                      .threads = 4,
                      .host = "node7",
                      .processor = "a processor",
                      .kernels = "x86-64-v3",
                      .version = "0.1.0"}}};
}

TEST(RunFacts, AreWhatWasWritten) {
  const RunFacts facts = run_facts_from_json(to_json(some_facts()), "start.json");
  EXPECT_EQ(facts.model->total, 100);
  EXPECT_EQ(facts.model->active, 60);
  EXPECT_EQ(facts.model->trainable, 90);
  EXPECT_EQ(facts.teacher->total, 1000);
  ASSERT_EQ(facts.starts.size(), 2U);
  EXPECT_EQ(facts.starts[0].ranks, 2);
  const RunStarted& last = facts.starts[1];
  EXPECT_EQ(last.step, 40);
  EXPECT_EQ(last.time, 1.6e9);
  EXPECT_EQ(last.command, "limbeck train a.textproto --resume --out 'a b'");
  EXPECT_EQ(last.layout, "dp1");
  EXPECT_EQ(last.teacher_ranks, 2);
  EXPECT_EQ(last.teacher_layout, "tp2");
  EXPECT_EQ(facts.starts[0].teacher_ranks, 0);
  EXPECT_EQ(facts.starts[0].teacher_layout, "pp2");
  EXPECT_FALSE(to_json(some_facts())["starts"][0].contains("teacher_ranks"));
  EXPECT_EQ(last.threads, 4);
  EXPECT_EQ(last.host + last.processor + last.kernels + last.version, "node7a processorx86-64-v30.1.0");
}

TEST(RunFacts, OfAnOlderRunAreNotKnown) {
  const RunFacts facts = run_facts_from_json(nlohmann::json::parse(R"({"student":{"tokens":3}})"), "start.json");
  EXPECT_FALSE(facts.model || facts.teacher);
  EXPECT_TRUE(facts.starts.empty());
}

TEST(RunFacts, OtherTypesAreNamed) {
  struct Case {
    const char* json;
    const char* what;
  };
  for (const Case& c : std::initializer_list<Case>{{R"({"parameters":3})", "parameters is 3, expected an object"},
                                                   {R"({"parameters":{"total":1,"active":2}})", "parameters.trainable"},
                                                   {R"({"parameters":{"total":0.5,"active":2,"trainable":1}})",
                                                    "parameters.total is 0.5, expected a whole number"},
                                                   {R"({"starts":{}})", "starts is {}, expected an array"},
                                                   {R"({"starts":[{"step":1}]})", "starts[0].time is absent"},
                                                   {R"({"starts":[{"step":1,"time":"noon"}]})", "expected a number"},
                                                   {R"([])", "expected an object"}}) {
    const std::string error = error_of([&] { run_facts_from_json(nlohmann::json::parse(c.json), "s.json"); });
    EXPECT_THAT(error, ::testing::AllOf(HasSubstr("s.json"), HasSubstr(c.what)));
  }
}

TEST(RunFacts, StandBesideWhatOthersWrote) {
  const testing::TemporaryFolder folder;
  EXPECT_TRUE(read_start_file(folder.path()).empty());
  add_to_start_file(folder.path(), {{"student_text", std::string("cut \xc3")}, {"starts", 3}});
  add_to_start_file(folder.path(), to_json(some_facts()));
  const nlohmann::json start = read_start_file(folder.path());
  EXPECT_EQ(start["student_text"], "cut \uFFFD");
  EXPECT_EQ(run_facts_from_json(start, "start.json").starts.size(), 2U);
  testing::write_file(folder / "start.json", "[1]");
  EXPECT_THAT(error_of([&] { read_start_file(folder.path()); }), HasSubstr("start.json: not the start of a run"));
}

}  // namespace
}  // namespace limbeck::launch
