// A teacher on GPUs of its own, cut over them, whose answers go by way of the hosts to the GPUs of the student.
#include "launch/run/teacher_ranks.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "launch/run/step.h"
#include "launch/run/teacher_service.h"
#include "optim/clip.h"
#include "optim/objectives.h"
#include "tests/gpu/gpus.h"
#include "tests/support/golden_model.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using testing::GoldenModel;

constexpr const char* fingerprint = "00112233aabbccdd";

/// Loss, its part of hidden states, and the gradient's norm, of two steps' passes over the same text: of the first the
/// teacher was asked before.
std::vector<double> figures_of(bool on_gpus) {
  const GoldenModel golden("matching.h5");
  std::vector<double> figures;
  testing::run_ranks(4, [&](testing::RankWorld& world) {
    launch::TeacherRanks ranks(world.comm, /*num_teachers=*/2, parallel::parse_layout("dp2"),
                               parallel::parse_layout("ep2"));
    launch::Rank rank(ranks.side(), ranks.is_teacher() ? "ep2" : "dp2", 1, /*sequence_parallel=*/false,
                      on_gpus ? testing::gpu_memory(world.rank) : core::Memory::cpu(1));
    auto model = std::make_unique<nn::Transformer>(
        golden.config("/teacher"), ranks.is_teacher() ? rank.frozen_shard(DType::F32) : rank.frozen_copy(DType::F32));
    model->load(golden.parameters("/teacher/parameters"));
    if (ranks.is_teacher()) {
      launch::LoadedTeacher teacher;
      teacher.model = std::move(model);
      teacher.fingerprint = fingerprint;
      return launch::answer_with(rank, ranks, teacher);
    }
    {
      launch::RemoteTeacher remote(ranks, rank.memory(), {.width = model->config().width, .fingerprint = fingerprint});
      remote.keep_head(model->head().value, model->head_bias().value);
      remote.want_layers({0, 2});
      nn::Transformer student(golden.config(), rank.sharded(DType::F32));
      student.load(golden.parameters());
      parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory());
      const optim::Distillation objective({.ce_weight = 0.3, .temperature = 1.5});
      const launch::StepText text(golden.samples());
      remote.ask(launch::batches_of(rank, text, 1));
      for (int step = 0; step < 2; ++step) {
        const launch::StepResult result = launch::forward_backward(
            rank, {.student = student, .teacher = nullptr, .objective = objective, .remote = &remote}, text,
            {.hidden = launch::HiddenMatch{.weight = 0.6, .layers = {0, 2}}}, sync);
        const double norm = optim::GradientNorm(student.parameters(), rank.world(), 0).values().norm;
        if (world.rank == 0) figures.insert(figures.end(), {result.loss(), result.hidden, norm});
      }
    }
    ranks.dismiss();
  });
  return figures;
}

TEST(GpuTeacherRanks, TeachAsOnTheCpu) {
  const std::vector<double> gpu = figures_of(true), cpu = figures_of(false);
  ASSERT_EQ(gpu.size(), 6U);
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    EXPECT_GT(cpu[i], 0);
    EXPECT_NEAR(gpu[i], cpu[i], 1e-4 * cpu[i]) << i;
  }
}

}  // namespace
}  // namespace limbeck
