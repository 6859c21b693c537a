// Whole steps with several threads a rank: the same number gives the same bits, another the same to rounding
// (docs/architecture.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/build_info.h"
#include "launch/run/step.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;

constexpr int num_steps = 3;

/// Large enough that every kernel has work for several threads.
nn::ModelConfig student_config() {
  return {
      .vocabulary = 320,
      .width = 128,
      .num_layers = 2,
      .num_heads = 9,
      .num_kv_heads = 3,
      .head_width = 16,
      .mlp_width = 192,
      .max_positions = 256,
      .moe = {.num_experts = 6, .experts_per_token = 2, .expert_width = 64, .shared_width = 32, .dense_layers = {0}}};
}
nn::ModelConfig teacher_config() {
  nn::ModelConfig config = student_config();
  config.moe = {};
  return config;
}

/// Sequences of two documents.
data::TokenBatch samples_of(std::uint64_t step) {
  const core::RandomStream random(11, step, "text");
  data::TokenBatch samples;
  samples.num_sequences = 4;
  samples.sequence_length = 190;
  for (std::int64_t i = 0; i < samples.num_sequences * samples.sequence_length; ++i) {
    const std::int64_t at = i % samples.sequence_length;
    samples.tokens.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(i), 320)));
    samples.targets.push_back(
        at == 49 ? -1 : static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(i + 1), 320)));
    samples.positions.push_back(static_cast<std::int32_t>(at < 50 ? at : at - 50));
    samples.documents.push_back(at < 50 ? 0 : 1);
  }
  return samples;
}

/// What a rank sees.
struct Run {
  std::vector<double> losses;
  std::vector<std::vector<double>> gradients;  // of the first step, by parameter
  std::vector<std::vector<double>> weights;    // after the last
  std::vector<nn::RoutingLog> routing;         // of each step
};

/// What each rank sees of a run, under the choices of experts of `replay` where it is given.
std::vector<Run> run_steps(const std::string& layout, int ranks, int threads, bool distills,
                           const std::vector<Run>& replay = {}) {
  std::vector<Run> runs(static_cast<std::size_t>(ranks));
  testing::run_ranks(ranks, [&](testing::RankWorld& world) {
    Run& run = runs[static_cast<std::size_t>(world.rank)];
    if (!replay.empty()) run.routing = replay[static_cast<std::size_t>(world.rank)].routing;
    run.routing.resize(num_steps);
    launch::Rank rank(world.comm, layout, threads);
    nn::Transformer student(student_config(), rank.sharded(DType::F32));
    student.init_random(1);
    nn::Transformer teacher(teacher_config(), rank.frozen_copy(DType::F32));
    teacher.init_random(2);
    parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory());
    optim::AdamW adamw(optim::whole_fragments(student.parameters()), {});
    const optim::LanguageModelling modelling;
    const optim::Distillation distillation({.ce_weight = 0.3, .temperature = 2});
    for (std::uint64_t step = 0; step < num_steps; ++step) {
      const launch::StepModels models{student, distills ? &teacher : nullptr,
                                      distills ? static_cast<const core::Objective&>(distillation) : modelling};
      const launch::StepResult result =
          launch::forward_backward(rank, models, samples_of(step),
                                   {.router = {.balance = 0.01, .z = 1e-3}, .routing = &run.routing[step]}, sync);
      run.losses.push_back(result.loss());
      if (step == 0)
        for (const core::Parameter* p : student.parameters())
          run.gradients.push_back(testing::values_of(p->slot->grad));
      adamw.step(1e-3, optim::GradientNorm(student.parameters(), rank.world(), 1).factor());
    }
    for (const core::Parameter* p : student.parameters()) run.weights.push_back(testing::values_of(p->value));
  });
  return runs;
}

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double x : values) result = std::max(result, std::abs(x));
  return result;
}

void expect_equal_to_rounding(const Run& a, const Run& b) {
  for (std::size_t step = 0; step < num_steps; ++step)
    EXPECT_NEAR(a.losses[step], b.losses[step], 1e-5 * b.losses[step]) << "step " << step;
  double greatest = 0;
  for (const auto& gradient : b.gradients) greatest = std::max(greatest, largest(gradient));
  for (std::size_t p = 0; p < b.gradients.size(); ++p) {
    std::vector<double> difference;
    for (std::size_t i = 0; i < b.gradients[p].size(); ++i) difference.push_back(a.gradients[p][i] - b.gradients[p][i]);
    EXPECT_LE(largest(difference), 1e-5 * std::max(largest(b.gradients[p]), greatest / 100)) << "parameter " << p;
  }
}

void expect_promises(const std::string& layout, int ranks, bool distills) {
  SCOPED_TRACE(layout);
  const std::vector<Run> one = run_steps(layout, ranks, 1, distills);
  EXPECT_GT(largest(one[0].gradients[0]), 0);
  for (const int threads : {1, 2, 4}) {
    SCOPED_TRACE(threads);
    const std::vector<Run> first = run_steps(layout, ranks, threads, distills, one);
    const std::vector<Run> again = run_steps(layout, ranks, threads, distills, one);
    for (std::size_t r = 0; r < one.size(); ++r) {
      EXPECT_EQ(first[r].losses, again[r].losses);
      EXPECT_EQ(first[r].weights, again[r].weights);
      expect_equal_to_rounding(first[r], one[r]);
      EXPECT_TRUE(threads > 1 || first[r].weights == one[r].weights);
    }
  }
}

class ThreadsOfARank : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kernels::matrix_product() == "plain loop") GTEST_SKIP() << "built without threads inside a rank";
  }
};

TEST_F(ThreadsOfARank, TrainingRepeatsAndAnotherNumberAgrees) {
  expect_promises("dp1", 1, false);
  expect_promises("tp3", 3, false);
}

TEST_F(ThreadsOfARank, DistillationRepeatsAndAnotherNumberAgrees) {
  expect_promises("dp1", 1, true);
  expect_promises("ep2", 2, true);
}

}  // namespace
}  // namespace limbeck
