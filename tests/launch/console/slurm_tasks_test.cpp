#include "launch/console/slurm_tasks.h"

#include <gtest/gtest.h>

#include <utility>

namespace limbeck::launch {
namespace {

TEST(SlurmTasks, AreThoseOfTheNode) {
  EXPECT_EQ(tasks_on_node("8", 0), 8);
  EXPECT_EQ(tasks_on_node("2,1", 0), 2);
  EXPECT_EQ(tasks_on_node("2,1", 1), 1);
  for (const auto& [node, tasks] : {std::pair{0, 4}, {1, 4}, {2, 3}, {3, 12}, {12, 12}})
    EXPECT_EQ(tasks_on_node("4(x2),3,12(x10)", node), tasks) << node;
}

TEST(SlurmTasks, AreNotKnownWhereNothingSaysThem) {
  for (const char* text : {"", ",", "x", "4(x", "4(x)", "4(x0)", "4(x2", "(x2)", "-4", "4 ", "99999999999"})
    EXPECT_EQ(tasks_on_node(text, 0), 0) << text;
  EXPECT_EQ(tasks_on_node("4", 1), 0);
  EXPECT_EQ(tasks_on_node("4(x2)", 2), 0);
  EXPECT_EQ(tasks_on_node("4", -1), 0);
}

}  // namespace
}  // namespace limbeck::launch
