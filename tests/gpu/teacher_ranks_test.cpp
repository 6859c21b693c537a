// A teacher on GPUs of its own, cut over them, whose answers go by way of the hosts to the GPUs of the student; and one
// that the student's own GPUs run in another layout.
#include "launch/run/teacher_ranks.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "launch/run/relaid_teacher.h"
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

using Figures = std::vector<double>;

/// Adds loss, its part of hidden states, and the gradient's norm, of two steps' passes over the same text.
void take_two_steps(launch::Rank& rank, launch::RemoteTeacher* remote, launch::RelaidTeacher* relaid,
                    Figures& figures) {
  const GoldenModel golden("matching.h5");
  nn::Transformer student(golden.config(), rank.sharded(DType::F32));
  student.load(golden.parameters());
  parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory());
  const optim::Distillation objective({.ce_weight = 0.3, .temperature = 1.5});
  const launch::StepText text(golden.samples());
  if (remote != nullptr) remote->ask(launch::batches_of(rank, text, 1));
  for (int step = 0; step < 2; ++step) {
    const launch::StepResult result = launch::forward_backward(
        rank,
        {.student = student, .teacher = nullptr, .objective = objective, .remote = remote, .relaid = relaid}, text,
        {.hidden = launch::HiddenMatch{.weight = 0.6, .layers = {0, 2}}}, sync);
    const double norm = optim::GradientNorm(student.parameters(), rank.world(), 0).values().norm;
    if (rank.is_first()) figures.insert(figures.end(), {result.loss(), result.hidden, norm});
  }
}

core::MemoryPtr memory_of(int rank, bool on_gpus) {
  return on_gpus ? testing::gpu_memory(rank) : core::Memory::cpu(1);
}

launch::LoadedTeacher loaded_teacher(const nn::ModelOptions& options) {
  const GoldenModel golden("matching.h5");
  launch::LoadedTeacher teacher;
  teacher.model = std::make_unique<nn::Transformer>(golden.config("/teacher"), options);
  teacher.model->load(golden.parameters("/teacher/parameters"));
  teacher.fingerprint = fingerprint;
  return teacher;
}

/// Of the first step the teacher was asked before.
Figures figures_of_teacher_ranks(bool on_gpus) {
  Figures figures;
  testing::run_ranks(4, [&](testing::RankWorld& world) {
    launch::TeacherRanks ranks(world.comm, /*num_teachers=*/2, parallel::parse_layout("dp2"),
                               parallel::parse_layout("ep2"));
    launch::Rank rank(ranks.side(), ranks.is_teacher() ? "ep2" : "dp2", 1, /*sequence_parallel=*/false,
                      memory_of(world.rank, on_gpus));
    const launch::LoadedTeacher teacher =
        loaded_teacher(ranks.is_teacher() ? rank.frozen_shard(DType::F32) : rank.frozen_copy(DType::F32));
    const std::int64_t length = GoldenModel("matching.h5").samples().sequence_length;
    if (ranks.is_teacher()) return launch::answer_with(rank, ranks, teacher, length);
    {
      launch::RemoteTeacher remote(ranks, rank.memory(),
                                   {.width = teacher.model->config().width, .fingerprint = fingerprint});
      remote.keep_head(teacher.model->head().value, teacher.model->head_bias().value);
      remote.want_layers({0, 2});
      take_two_steps(rank, &remote, nullptr, figures);
    }
    ranks.dismiss();
  });
  return figures;
}

Figures figures_of_relaid_teacher(bool on_gpus) {
  Figures figures;
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "dp2", 1, /*sequence_parallel=*/false, memory_of(world.rank, on_gpus)),
        side(rank, "pp2", parallel::ExpertExchange::Auto);
    const launch::LoadedTeacher beside = loaded_teacher(rank.frozen_copy(DType::F32));
    const nn::ModelConfig& config = beside.model->config();
    const std::int64_t length = GoldenModel("matching.h5").samples().sequence_length;
    launch::RelaidTeacher relaid(rank, side, {.width = config.width, .fingerprint = fingerprint});
    relaid.keep_head(beside.model->head().value, beside.model->head_bias().value);
    relaid.take(loaded_teacher(launch::on_stage(side, side.frozen_copy(DType::F32), config, length)), length);
    relaid.want_layers({0, 2});
    take_two_steps(rank, nullptr, &relaid, figures);
  });
  return figures;
}

void expect_alike(const Figures& gpu, const Figures& cpu) {
  ASSERT_EQ(gpu.size(), 6U);
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    EXPECT_GT(cpu[i], 0);
    EXPECT_NEAR(gpu[i], cpu[i], 1e-4 * cpu[i]) << i;
  }
}

TEST(GpuTeacherRanks, TeachAsOnTheCpu) {
  expect_alike(figures_of_teacher_ranks(true), figures_of_teacher_ranks(false));
}

TEST(GpuTeacherRanks, InAnotherLayoutTeachAsOnTheCpu) {
  expect_alike(figures_of_relaid_teacher(true), figures_of_relaid_teacher(false));
}

}  // namespace
}  // namespace limbeck
