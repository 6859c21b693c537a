// Whole training steps on GPUs beside those of the CPU. Ranks are threads, with a GPU each as far as there are any.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "core/device/index_check.h"
#include "core/nn/generation.h"
#include "data/checkpoints/checkpoint.h"
#include "launch/run/checkpointing.h"
#include "launch/run/step.h"
#include "optim/clip.h"
#include "optim/objectives.h"
#include "optim/optimizer.h"
#include "tests/gpu/gpus.h"
#include "tests/support/golden_model.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using testing::GoldenModel;

enum class On : bool { Cpu, Gpu };

struct Settings {
  std::string layout = "dp1";
  int ranks = 1;
  bool recompute = false;
  bool uses_muon = false;
  double capacity_factor = 0;
  DType compute = DType::F32;
};

/// What a rank sees.
struct Seen {
  std::vector<double> losses, norms;
  std::vector<std::vector<double>> gradients;  // of the first step, by parameter
};

struct Checkpoints {
  std::optional<std::filesystem::path> from = {};  // to go on from
  std::optional<std::filesystem::path> to = {};    // written behind the last step
};

/// Steps of distilling the golden model from itself, from one kind of start under every layout.
std::vector<Seen> run_steps(const Settings& s, On on, int steps, const Checkpoints& checkpoints = {}) {
  std::vector<Seen> seen(static_cast<std::size_t>(s.ranks));
  testing::run_ranks(s.ranks, [&](testing::RankWorld& world) {
    Seen& mine = seen[static_cast<std::size_t>(world.rank)];
    const GoldenModel golden("moe.h5");
    launch::Rank rank(world.comm, s.layout, 1, false,
                      on == On::Gpu ? testing::gpu_memory(world.rank) : core::Memory::cpu(1));
    nn::ModelOptions options = rank.sharded(DType::F32);
    options.compute = s.compute;
    nn::Transformer student(golden.config(), options), teacher(golden.config(), rank.frozen_copy(DType::F32));
    student.init_random(1);
    teacher.load(golden.parameters());
    parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory());
    optim::Optimizer optimizer(optim::apply_groups(student.parameters(), {}), {.uses_muon = s.uses_muon},
                               [&](const std::string& axis) -> core::Comm& { return rank.mesh().along(axis); });
    if (checkpoints.from) {
      const data::Checkpoint checkpoint(*checkpoints.from);
      student.load(checkpoint);
      optimizer.load(checkpoint);
      optimizer.set_num_steps(checkpoint.step());
    }
    const optim::Distillation objective({.ce_weight = 0.3, .temperature = 2});
    for (int step = 0; step < steps; ++step) {
      launch::StepUnderWay passes =
          launch::start_step(rank, {student, &teacher, objective}, golden.samples(),
                             {.micro_batches = 2,
                              .router = {.balance = 0.01, .z = 1e-3, .capacity_factor = s.capacity_factor},
                              .recompute = s.recompute},
                             sync);
      optim::GradientNorm norm(student.parameters(), rank.world(), 1);
      if (step == 0)
        for (const core::Parameter* p : student.parameters())
          mine.gradients.push_back(testing::values_of(p->slot->grad));
      optimizer.step(1e-3, norm.factor());
      core::NotesCopy notes(rank.memory());
      mine.losses.push_back(passes.read().loss());
      mine.norms.push_back(norm.values().norm);
      notes.check();
    }
    if (checkpoints.to) {
      core::StateDict state = student.state_dict();
      state.merge(optimizer.state_dict());
      launch::save_checkpoint(rank, *checkpoints.to, optimizer.num_steps(), state, "{}", {.newest = 1});
    }
  });
  return seen;
}

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double x : values) result = std::max(result, std::abs(x));
  return result;
}

class GpuSteps : public ::testing::TestWithParam<Settings> {};

// float32: 1e-5 of each parameter's greatest gradient, or of a hundredth of the greatest of all.
TEST_P(GpuSteps, AreThoseOfTheCpu) {
  const std::vector<Seen> gpu = run_steps(GetParam(), On::Gpu, 2), cpu = run_steps(GetParam(), On::Cpu, 2);
  const double tolerance = GetParam().compute == DType::BF16 ? 2e-2 : 1e-5;
  for (std::size_t r = 0; r < cpu.size(); ++r) {
    for (std::size_t step = 0; step < cpu[r].losses.size(); ++step) {
      EXPECT_NEAR(gpu[r].losses[step], cpu[r].losses[step], tolerance * cpu[r].losses[step]) << "step " << step;
      EXPECT_NEAR(gpu[r].norms[step], cpu[r].norms[step], tolerance * 10 * cpu[r].norms[step]) << "step " << step;
    }
    double greatest = 0;
    for (const auto& gradient : cpu[r].gradients) greatest = std::max(greatest, largest(gradient));
    for (std::size_t p = 0; p < cpu[r].gradients.size(); ++p) {
      const auto &mine = gpu[r].gradients[p], &right = cpu[r].gradients[p];
      std::vector<double> difference;
      for (std::size_t i = 0; i < right.size(); ++i) difference.push_back(mine[i] - right[i]);
      EXPECT_LE(largest(difference), tolerance * std::max(largest(right), greatest / 100)) << "parameter " << p;
    }
  }
}

TEST_P(GpuSteps, RepeatBitForBit) {
  const std::vector<Seen> first = run_steps(GetParam(), On::Gpu, 2), second = run_steps(GetParam(), On::Gpu, 2);
  for (std::size_t r = 0; r < first.size(); ++r) {
    EXPECT_EQ(first[r].losses, second[r].losses);
    EXPECT_EQ(first[r].gradients, second[r].gradients);
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, GpuSteps,
                         ::testing::Values(Settings{}, Settings{.recompute = true, .capacity_factor = 0.7},
                                           Settings{.uses_muon = true}, Settings{.compute = DType::BF16},
                                           Settings{"tp2", 2}, Settings{"ep2", 2, true}, Settings{"dp2ep2", 4}),
                         [](const auto& test) { return fmt::format("{}", test.index); });

TEST(GpuRuns, TwentyLossesAreThoseOfTheCpu) {
  const Settings s{"ep2", 2};
  const Seen gpu = run_steps(s, On::Gpu, 20).front(), cpu = run_steps(s, On::Cpu, 20).front();
  for (std::size_t step = 0; step < cpu.losses.size(); ++step)
    EXPECT_NEAR(gpu.losses[step], cpu.losses[step], 1e-4 * cpu.losses[step]) << "step " << step;
}

TEST(GpuRuns, GoOnFromACheckpointOfTheOtherDevice) {
  const testing::TemporaryFolder folder;
  for (const auto& [first, second] : {std::pair{On::Cpu, On::Gpu}, std::pair{On::Gpu, On::Cpu}}) {
    const std::filesystem::path saved = folder.path() / (first == On::Cpu ? "cpu" : "gpu");
    const Settings one{"ep2", 2}, other{};
    run_steps(one, first, 3, {.to = saved});
    const Checkpoints from{.from = saved / "step_3"};
    const Seen there = run_steps(other, second, 3, from).front(), here = run_steps(other, first, 3, from).front();
    for (std::size_t step = 0; step < here.losses.size(); ++step)
      EXPECT_NEAR(there.losses[step], here.losses[step], 1e-4 * here.losses[step]) << "step " << step;
  }
}

TEST(GpuRuns, GenerateTheSameText) {
  const auto text = [](const core::MemoryPtr& memory) {
    const GoldenModel golden("moe.h5");
    nn::Transformer model(golden.config(), {.memory = memory, .dtype = DType::F32, .frozen = true});
    model.load(golden.parameters());
    const std::vector<std::int32_t> prompt = {3, 1, 4};
    return nn::generate(model, prompt, {.max_tokens = 8});
  };
  EXPECT_EQ(text(testing::gpu_memory(0)), text(core::Memory::cpu(1)));
}

}  // namespace
}  // namespace limbeck
