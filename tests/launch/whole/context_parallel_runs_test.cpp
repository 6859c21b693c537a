// Whole runs whose sequences are cut over ranks: figures, evaluations and checkpoints are those of one rank; what needs
// whole sequences is refused in one line.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>

#include "tests/support/run_limbeck.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Experts, grouped heads, and windows in all layers but one, over documents that pieces of sequences cut.
constexpr const char* job = R"(
model {
  width: 24 num_layers: 3 num_heads: 4 num_kv_heads: 2 head_width: 8 window: 7 full_layers: [1] max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 12 dense_layers: [0] } mlp_width: 20
}
data { text: "text" tokenizer: "bytes" sequence_length: 37 held_out_fraction: 0.35 }
optimizer { rate: 5e-3 } schedule { warmup_steps: 0 }
batch { sequences_per_step: 6 micro_batches: 2 }
train { steps: 4 eval_every_steps: 2 eval_tokens: 150 log_every_steps: 1 threads: 1 checkpoint_every_steps: 2 }
evaluation { set { name: "own" text: "text/1.txt" } }
)";

void expect_same(const RunFolder& folder, const std::string& run, const std::string& other) {
  const auto lines = folder.metrics(run), others = folder.metrics(other);
  ASSERT_EQ(lines.size(), others.size()) << run << " " << other;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const json found = lines[i].flatten(), right = others[i].flatten();
    for (const auto& [name, value] : right.items()) {
      ASSERT_TRUE(found.contains(name)) << name;
      if (value.is_number()) expect_near(found[name], value.get<double>(), name);
    }
  }
}

TEST(ContextParallelRuns, FiguresAreThoseOfOneRankAndCheckpointsGoAnyway) {
  const RunFolder folder("context_parallel");
  folder.write("job.textproto", fmt::format("{}{}", job, in_float64));
  folder.succeed("train job.textproto --out one");
  for (const auto& [layout, ranks] : {std::pair{"cp2", 2}, {"cp3", 3}, {"cp2ep2", 2}, {"cp2tp2", 4}}) {
    SCOPED_TRACE(layout);
    folder.succeed(fmt::format("train job.textproto --out {0} --set parallel.layout={0}", layout), ranks);
    expect_same(folder, layout, "one");
  }
  folder.succeed("train job.textproto --out one --resume --steps 6");
  for (const auto& [from, to, ranks] : {std::tuple{"cp2", "dp1", 1}, {"one", "cp2", 2}, {"cp2tp2", "cp3", 3}}) {
    SCOPED_TRACE(fmt::format("{} {}", from, to));
    const std::string run = fmt::format("{}_{}", from, to);
    fs::copy(folder.path() / from, folder.path() / run, fs::copy_options::recursive);
    if (from == std::string("one")) fs::remove_all(folder.path() / run / "checkpoints/step_6");
    folder.succeed(fmt::format("train job.textproto --out {} --set parallel.layout={} --resume --steps 6", run, to),
                   ranks);
    expect_same(folder, run, "one");
  }
}

TEST(ContextParallelRuns, RefuseWhatNeedsWholeSequences) {
  const RunFolder folder("context_refused");
  folder.write("teacher.textproto", job);
  folder.succeed("train teacher.textproto --steps 1 --out teacher");
  folder.write("job.textproto", fmt::format("{}teacher {{ source: \"teacher\" }}", job));
  const Outcome outcome = folder.limbeck(
      "distill job.textproto --out run --set parallel.layout=cp2 --set objective.control=SHUFFLED_POSITIONS", 2);
  EXPECT_EQ(outcome.code, 2) << outcome.output;
  EXPECT_THAT(outcome.lines_with("limbeck: error"),
              ElementsAre(HasSubstr("parallel.layout is cp2, which cuts sequences over 2 ranks, expected no cp with "
                                    "objective.control SHUFFLED_POSITIONS: it looks at whole sequences")));
}

}  // namespace
}  // namespace limbeck::testing
