// Runs whose teacher has ranks of its own, or a layout of its own over all, beside the same with a teacher beside the
// student.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <tuple>

#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* distill_job = R"(
teacher { source: "teacher" }
student_init { num_layers: 2 choice: LIST layers: [0, 2] }
data { text: "text" sequence_length: 24 held_out_fraction: 0.35 seed: 5 }
objective {
  cross_entropy_weight: 0.3
  hidden_states { weight: 0.7 }
  sampled_text { fraction: 0.7 prompt_tokens: 6 }
}
optimizer { rate: 5e-3 }
schedule { warmup_steps: 0 }
batch { sequences_per_step: 5 }
train { steps: 5 seed: 11 eval_tokens: 120 eval_every_steps: 2 log_every_steps: 1 threads: 1 }
evaluation { set { name: "again" text: "text" } }
)";

void write_jobs(const RunFolder& folder) {
  folder.write("teacher.textproto", std::string(teacher_of_experts_job) + in_float64);
  folder.write("job.textproto", std::string(distill_job) + in_float64);
  folder.succeed("train teacher.textproto --out teacher");
}

/// Of a run whose metrics are these, but for what takes time.
void expect_same(const RunFolder& folder, const std::string& run, const std::vector<json>& expected) {
  const std::vector<json> lines = folder.metrics(run);
  ASSERT_EQ(lines.size(), expected.size()) << run;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    for (const auto& [name, value] : expected[i].items()) {
      ASSERT_TRUE(lines[i].contains(name)) << run << " " << name;
      if (value.is_number_float() && name != "sample_seconds") expect_near(lines[i][name], value, run + " " + name);
    }
    if (expected[i].contains("eval_sets"))
      expect_near(lines[i]["eval_sets"]["again"]["kl"], expected[i]["eval_sets"]["again"]["kl"], run + " again");
  }
}

TEST(TeacherRankRuns, AreThoseOfATeacherBesideTheStudent) {
  const RunFolder folder("teacher_ranks");
  write_jobs(folder);
  folder.succeed("distill job.textproto --out beside");
  const std::vector<json> expected = folder.metrics("beside");
  ASSERT_EQ(expected.size(), 5U);
  struct Case {
    const char* name;
    int ranks, of_teacher;
    const char* sets;
  };
  for (const Case& c : {Case{"own", 2, 1, ""}, Case{"tensor", 3, 1, "--set parallel.layout=tp2"},
                        Case{"experts", 4, 2,
                             "--set parallel.layout=ep2 --set parallel.teacher_layout=tp2 --set batch.micro_batches=2"},
                        Case{"sharded", 3, 2, "--set precision.sharded_teacher=true --set parallel.teacher_layout=ep2"},
                        Case{"staged", 4, 3, "--set parallel.teacher_layout=pp3 --set batch.micro_batches=2"},
                        Case{"cut", 4, 2, "--set parallel.layout=cp2 --set parallel.teacher_layout=pp2"}}) {
    const std::string output = folder.succeed(
        fmt::format("distill job.textproto --out {} --set parallel.teacher_ranks={} {}", c.name, c.of_teacher, c.sets),
        c.ranks);
    EXPECT_THAT(output, HasSubstr(fmt::format(", and {} of the teacher, layout ", c.of_teacher)));
    expect_same(folder, c.name, expected);
  }
  EXPECT_THAT(folder.read("own/metrics.jsonl"), HasSubstr("\"teacher_wait_s\":"));
  for (const auto& [run, ranks, layout] : {std::tuple("own", 1, "dp1"), {"experts", 2, "tp2"}}) {
    const json start = json::parse(folder.read(std::string(run) + "/start.json"))["starts"][0];
    EXPECT_EQ(start["teacher_ranks"], ranks) << run;
    EXPECT_EQ(start["teacher_layout"], layout) << run;
  }
  // With a baseline, ended early and gone on with.
  folder.succeed("distill job.textproto --out parts --steps 2 --set parallel.teacher_ranks=1", 2);
  folder.succeed("distill job.textproto --out parts --resume --baseline --set parallel.teacher_ranks=1", 2);
  expect_same(folder, "parts", expected);
  EXPECT_EQ(folder.metrics("parts/baseline").size(), 5U);
  // Without figures that ask it, the student's ranks give the teacher back.
  folder.succeed("distill job.textproto --out bare --set evaluation.set=[] --set parallel.teacher_ranks=1", 2);
  expect_near(folder.metrics("bare")[3]["eval_kl"], expected[3]["eval_kl"], "eval_kl");
}

TEST(TeacherRankRuns, AreThoseOfATeacherInAnotherLayout) {
  const RunFolder folder("teacher_layout");
  write_jobs(folder);
  folder.succeed("distill job.textproto --out beside");
  const std::vector<json> expected = folder.metrics("beside");
  ASSERT_EQ(expected.size(), 5U);
  for (const auto& [name, ranks, student, teacher] :
       {std::tuple("tensor", 2, "dp2", "tp2"),
        {"stages", 4, "ep2 --set batch.micro_batches=2 --set precision.sharded_teacher=true", "pp2ep2"},
        {"cut", 2, "cp2", "pp2"}}) {
    const std::string output = folder.succeed(
        fmt::format("distill job.textproto --out {} --set parallel.teacher_layout={} --set parallel.layout={}", name,
                    teacher, student),
        ranks);
    EXPECT_THAT(output, HasSubstr(fmt::format(", the teacher's {};", teacher)));
    expect_same(folder, name, expected);
  }
  const json start = json::parse(folder.read("tensor/start.json"))["starts"][0];
  EXPECT_EQ(start["teacher_layout"], "tp2");
  EXPECT_FALSE(start.contains("teacher_ranks"));
  // Ended early and gone on with in another layout, whose first stages hold their layers to the teacher's too; the
  // teacher beside the student is given back, for no set asks it.
  const std::string bare = "distill job.textproto --out bare --set evaluation.set=[] --set parallel.layout=";
  folder.succeed(bare + "tp2 --set parallel.teacher_layout=dp2 --steps 2", 2);
  folder.succeed(bare + "pp2 --set parallel.teacher_layout=tp2 --resume", 2);
  const std::vector<json> lines = folder.metrics("bare");
  ASSERT_EQ(lines.size(), 5U);
  for (std::size_t i = 0; i < lines.size(); ++i)
    for (const char* figure : {"loss", "kl", "grad_norm"}) expect_near(lines[i][figure], expected[i][figure], figure);
  expect_near(lines[3]["eval_kl"], expected[3]["eval_kl"], "eval_kl");
}

// Hidden states are asked for by the ranks that have the head, tokens are said through all stages; the first rank's
// metrics say how long the last stage waited. Beside the head such a teacher would leave its stage one layer of six.
TEST(TeacherRankRuns, BesideStagesTheLastOneAsks) {
  const RunFolder folder("teacher_ranks_stages");
  write_jobs(folder);
  const std::string job =
      "distill job.textproto --set objective.hidden_states.weight=0 --set student_init= "
      "--set 'model { vocabulary: 264 width: 16 num_layers: 6 num_heads: 2 mlp_width: 20 max_positions: 64 }' --out ";
  folder.succeed(job + "beside");
  const std::vector<json> expected = folder.metrics("beside");
  ASSERT_EQ(expected.size(), 5U);
  struct Case {
    const char* name;
    int ranks, of_teacher;
    const char* sets;
  };
  for (const Case& c : {Case{"stages", 3, 1, "pp2 --set batch.micro_batches=3"},
                        Case{"replicas", 5, 1, "pp2dp2 --set parallel.schedule=ZERO_BUBBLE"},
                        Case{"tensor", 6, 2, "pp2tp2 --set parallel.teacher_layout=tp2 --set batch.micro_batches=2"}}) {
    folder.succeed(
        fmt::format("{}{} --set parallel.teacher_ranks={} --set parallel.layout={}", job, c.name, c.of_teacher, c.sets),
        c.ranks);
    expect_same(folder, c.name, expected);
  }
  EXPECT_THAT(folder.read("stages/metrics.jsonl"),
              ::testing::AllOf(HasSubstr("\"teacher_wait_s\":"), Not(HasSubstr("\"teacher_wait_s\":0.0,"))));
}

TEST(TeacherRankRuns, AreRefusedWhereTheTeacherIsAskedForMore) {
  const RunFolder folder("teacher_ranks_refused");
  write_jobs(folder);
  const auto expect = [&](const std::string& sets, const std::string& message, int ranks = 1,
                          const std::string& config = "job.textproto") {
    const Outcome outcome =
        folder.limbeck("distill " + config + " --out x --set parallel.teacher_ranks=1 " + sets, ranks);
    EXPECT_EQ(outcome.code, 2) << outcome.output;
    EXPECT_EQ(outcome.lines_with("error").size(), 1U) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(message));
  };
  expect("", "parallel.teacher_ranks is 1, expected 1 or more, and fewer than the 1 ranks that are running");
  expect("--set parallel.layout=tp2", "layout 'tp2': the world has 1 ranks, expected a multiple of 2", 2);
  expect("--set objective.attention.weight=1",
         "objective.attention.weight is given with parallel.teacher_ranks, expected 0");
  expect("--set objective.routers.weight=1", "expected 0: routing does not travel");
  std::string job = folder.read("job.textproto");
  job.erase(job.find("  sampled_text"), job.find("}\noptimizer") - job.find("  sampled_text"));  // no cache has it
  folder.write("cached.textproto", job);
  expect("--set teacher.cache=kept", "teacher.cache is given with parallel.teacher_ranks, expected one of the two", 1,
         "cached.textproto");
  expect("--set objective.sampled_text.by=TEACHER", "expected STUDENT: the teacher's ranks do not generate");
  const std::string relaid = "--set parallel.teacher_ranks=0 --set parallel.teacher_layout=";
  expect(relaid + "tp2", "parallel.teacher_layout: layout 'tp2': the world has 1 ranks, expected a multiple of 2");
  expect(relaid + "dp1 --set objective.routers.weight=1",
         "objective.routers.weight is given with parallel.teacher_layout, expected 0: routing does not travel");
  expect(relaid + "dp1 --set objective.sampled_text.by=TEACHER",
         "expected STUDENT: a teacher so laid does not generate");
  expect("--set parallel.teacher_ranks=2 --set parallel.teacher_layout=pp3",
         "layout 'pp3': the world has 2 ranks, expected a multiple of 3", 3);
  // A teacher that is not there is said once.
  std::filesystem::rename(folder.path() / "teacher", folder.path() / "away");
  const Outcome lost = folder.limbeck("distill job.textproto --out x --set parallel.teacher_ranks=1", 2);
  EXPECT_NE(lost.code, 0);
  EXPECT_EQ(lost.lines_with("limbeck: error: ").size(), 1U) << lost.output;
  EXPECT_THAT(lost.output, HasSubstr("teacher: there is no such file or folder, expected a model"));
}

}  // namespace
}  // namespace limbeck::testing
