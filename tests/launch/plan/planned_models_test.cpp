#include "launch/plan/planned_models.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launch/run/run_models.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using testing::error_of;
using ::testing::HasSubstr;

RunConfig config_with(const std::string& more) {
  return parse_config(R"(
model { width: 32 num_layers: 1 num_heads: 2 mlp_width: 32 max_positions: 64 }
data { text: "t" tokenizer: "bytes" sequence_length: 32 }
)" + more,
                      "c");
}
std::string error_of_plan(const RunConfig& config) {
  return error_of([&] { planned_models(config, make_log(1)); });
}

TEST(PlannedModels, RefuseWhatTheirRunRefuses) {
  RunConfig config = config_with("");
  EXPECT_EQ(error_of_plan(config), "");
  config.model->architecture.vocabulary = 100;
  EXPECT_THAT(error_of_plan(config),
              HasSubstr("the tokenizer has 257 tokens, expected at most the model's vocabulary of 100"));
  config = config_with("");
  config.data.sequence_length = 65;
  EXPECT_THAT(error_of_plan(config),
              HasSubstr("data.sequence_length is 65, expected at most the model's 64 positions"));
}

// Of what a run reads both ask one function.
TEST(PlannedModels, TeachersHaveTheirPositions) {
  const RunConfig config = config_with("teacher { source: \"big\" }");
  nn::ModelConfig student = config.model->architecture, teacher = student;
  student.vocabulary = 257;
  teacher.max_positions = 31;
  EXPECT_NO_THROW(check_reads(config, 257, student, nullptr));
  EXPECT_THAT(error_of([&] { check_reads(config, 257, student, &teacher); }),
              HasSubstr("data.sequence_length is 32, expected at most the teacher's 31 positions"));
  EXPECT_THAT(error_of([&] { check_reads(config, 258, student, nullptr); }),
              HasSubstr("the student's vocabulary of 257"));
}

TEST(PlannedModels, RefuseWhatIsNotPlanned) {
  RunConfig config = config_with("teacher { source: \"big\" }");
  config.student_init.emplace();
  config.student_init->vocabulary_count = 100;
  EXPECT_THAT(error_of_plan(config), HasSubstr("plan: student_init.vocabulary_count is given, which is not planned"));
}

TEST(PlannedModels, OfAllRanksTheTeachersAreNotTheStudents) {
  RunConfig config = config_with("teacher { source: \"big\" } parallel { teacher_layout: \"tp2\" }");
  EXPECT_EQ(not_planned(config), nullptr);
  EXPECT_EQ(num_students(config, 2), 2);
  config.parallel.teacher_ranks = 2;
  EXPECT_EQ(not_planned(config), nullptr);
  EXPECT_EQ(num_students(config, 3), 1);
  EXPECT_EQ(num_planned_ranks(config, {.num_ranks = 1}), 3);
  EXPECT_THAT(error_of([&] { num_students(config, 2); }),
              HasSubstr("parallel.teacher_ranks is 2, expected fewer than all 2 ranks"));
}

// Of what width and depth stands in the cache.
TEST(PlannedModels, RefuseProjectorsToACachedTeacher) {
  RunConfig config = config_with("teacher { source: \"big\" }");
  config.objective.hidden_states.weight = 1;
  config.objective.hidden_states.projector = true;
  EXPECT_EQ(not_planned(config), nullptr);
  config.teacher->cache = "kept";
  EXPECT_THAT(error_of_plan(config), HasSubstr("plan: objective.hidden_states.projector with teacher.cache is given, "
                                               "which is not planned"));
  config.objective.hidden_states.projector = false;
  EXPECT_EQ(not_planned(config), nullptr);
}

}  // namespace
}  // namespace limbeck::launch
