// examples/recipe/recipe.py, with a teacher and a text that are small.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "tests/support/places.h"
#include "tests/support/run_limbeck.h"

namespace limbeck::testing {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST(EndToEnd, TheRecipeMakesItsTableAndGoesOn) {
  const RunFolder folder("recipe");
  folder.succeed(
      "train tiny.textproto --steps 2 --out teacher --set model.moe.num_experts=0 --set model.num_layers=3 --set "
      "model.mlp_width=128");
  folder.succeed("convert teacher teacher.gguf --dtype Q8_0");
  const std::string recipe = fmt::format(
      "cd {0} && LIMBECK_POWERCAP=none OMP_NUM_THREADS=1 {1}/examples/recipe/recipe.py --without-llama-cpp --out out "
      "--limbeck {2} "
      "--teacher teacher.gguf --text text --steps 3 --quantised-steps 2 --tokens 3 --rounds 1 --window 48 --set "
      "student_init.num_layers=2 "
      "--set data.sequence_length=48 --set data.held_out_fraction=0.4 --set train.eval_tokens=48 --set "
      "generation.prompt=",
      folder.path().string(), source_folder().string(), program().string());
  const Outcome all = run_shell(recipe);
  ASSERT_EQ(all.code, 0) << all.output << folder.read("out/recipe.log");
  EXPECT_EQ(all.lines_with("== ").size(), 14U) << all.output;     // steps
  EXPECT_EQ(all.lines_with("| ").size(), 8U + 9U) << all.output;  // rows, and the heads of both tables
  for (const char* row : {"half the layers, nothing learnt", "these as experts", "distilled, 288 tokens", "in Q8_0",
                          "in Q4_K_M", "in Q4_0", "in Q4_0, quantisation-aware, 192 tokens more"})
    EXPECT_THAT(all.output, ContainsRegex(fmt::format("\n\\| {} \\| [0-9.]+ \\| [0-9.]+ \\| [0-9.]+ \\|", row)));
  for (const char* row : {"teacher, bfloat16", "teacher, Q8_0", "teacher, its own file", "student, bfloat16",
                          "student, Q8_0", "student, Q4_K_M", "student, Q4_0", "student, Q4_0, quantisation-aware"})
    EXPECT_THAT(all.output, ContainsRegex(fmt::format("\n\\| {}( \\| [0-9.e+-]+){{7}} \\|", row)));
  EXPECT_THAT(all.output,
              AllOf(HasSubstr("EUR a million tokens"), HasSubstr("Energy: declared: 20 W of two cores of a server.")));

  // What is there is not made again; of what is not, the rest is.
  const Outcome again = run_shell(recipe);
  EXPECT_THAT(again.lines_with("== "), IsEmpty());
  EXPECT_EQ(again.lines_with("| "), all.lines_with("| "));
  std::filesystem::remove(folder.path() / "out/results/student_Q8_0.json");
  EXPECT_EQ(run_shell(recipe).lines_with("== "), std::vector<std::string>{"== student_Q8_0"});
}

}  // namespace
}  // namespace limbeck::testing
