#include "launch/run/stages_in_step.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "launch/run/text_evaluation.h"
#include "parallel/comm/engine.h"
#include "tests/support/layouts.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

using namespace std::chrono_literals;

TEST(StagesInStep, NoStageIsFarAheadOfASlowOne) {
  for (const int stages : {2, 3}) {
    std::atomic<int> of_last = 0;
    testing::run_ranks(stages, [&](testing::RankWorld& world) {
      Rank rank(world.comm, fmt::format("pp{}", stages), 1);
      StagesInStep in_step(rank);
      int farthest = 0;
      for (int piece = 0; piece < 40; ++piece) {
        in_step.next();
        if (rank.is_last_stage()) {
          std::this_thread::sleep_for(2ms);
          ++of_last;
        } else {
          farthest = std::max(farthest, piece - of_last);
        }
      }
      EXPECT_LE(farthest, 2 * stages);
    });
    EXPECT_EQ(of_last, 40);
  }
}

/// What the first of two stages calls while a text of so many jobs of 1024 tokens is measured.
std::int64_t operations(int jobs) {
  std::int64_t count = 0;
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    Rank rank(world.comm, "pp2", 1);
    const testing::GoldenModel golden("dense.h5");
    const nn::ModelConfig model = golden.config();
    const Pipeline pipeline = testing::pipeline_of(rank, model, {}, 1);
    nn::Transformer student(model, pipeline.part_of(rank.sharded(core::DType::F32), rank.mesh().pp().rank()));
    student.load(golden.parameters());
    std::vector<data::Document> documents(1);
    for (int i = 0; i <= 1024 * jobs; ++i) documents[0].ids.push_back(static_cast<std::int32_t>(i % model.vocabulary));
    const TextEvaluation text(rank, std::move(documents), {.length = 8, .stride = 8}, model.vocabulary);
    const std::int64_t before = world.comm->engine().whereabouts().at.number;
    text.measure(student, nullptr, /*with_experts=*/false, nullptr);
    if (world.rank == 0) count = world.comm->engine().whereabouts().at.number - before;
  });
  return count;
}

// The first stage sends the stream of each job, and every fourth waits for the second.
TEST(StagesInStep, ATextIsMeasuredInStep) { EXPECT_EQ(operations(12) - operations(4), 8 + 2); }

}  // namespace
}  // namespace limbeck::launch
