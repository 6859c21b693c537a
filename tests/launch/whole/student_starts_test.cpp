// Students that are cut from a teacher whose layers differ.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/support/run_limbeck.h"

namespace limbeck::testing {
namespace {

using ::testing::HasSubstr;

TEST(StudentStarts, KeepTheWindowsOfTheirLayers) {
  const RunFolder folder("student_starts");
  const std::string common = R"(
    data { text: "text" tokenizer: "bytes" sequence_length: 48 held_out_fraction: 0.2 }
    batch { sequences_per_step: 2 } train { steps: 1 eval_tokens: 96 threads: 1 } generation { max_tokens: 4 })";
  folder.write("teacher.textproto",
               "model { width: 32 num_layers: 4 num_heads: 4 num_kv_heads: 2 mlp_width: 48 "
               "max_positions: 128 window: 8 full_layers: [1, 3] }" +
                   common);
  folder.write("student.textproto", R"(teacher { source: "teacher" }
    student_init { calibration_tokens: 96 upcycle { slices: 2 experts: 4 experts_per_token: 2 } })" +
                                        common);
  const Outcome trained = folder.limbeck("train teacher.textproto --out teacher");
  ASSERT_EQ(trained.code, 0) << trained.output;
  const std::string distill = "distill student.textproto --set student_init.choice=";
  const Outcome listed = folder.limbeck(distill + "LIST --set student_init.layers=[1,2] --out listed");
  ASSERT_EQ(listed.code, 0) << listed.output;
  const auto model = nlohmann::json::parse(folder.limbeck("inspect listed --json").output)["model"];
  EXPECT_EQ(model["window"], 8);
  EXPECT_EQ(model["full_layers"], nlohmann::json({0}));
  const Outcome ranked = folder.limbeck(distill + "BLOCK_INFLUENCE --set student_init.num_layers=2 --out ranked");
  EXPECT_EQ(ranked.code, 2);
  EXPECT_THAT(ranked.output, HasSubstr("but the teacher mixes layers with a window and without, expected LIST"));
}

}  // namespace
}  // namespace limbeck::testing
