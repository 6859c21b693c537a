// Whole training steps on GPUs beside those of the CPU. Ranks are threads, with a GPU each as far as there are any.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/nn/generation.h"
#include "tests/gpu/gpus.h"
#include "tests/support/golden_steps.h"
#include "tests/support/noted_results.h"
#include "tests/support/saved_steps.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"
#include "tests/support/written_state.h"

namespace limbeck {
namespace {

using core::DType;
using parallel::Sharded;
using testing::GoldenModel;

enum class On : bool { Cpu, Gpu };

using Settings = testing::StepSettings;

/// What a rank sees.
struct Seen {
  std::vector<double> losses, norms;
  std::vector<std::vector<double>> gradients;  // of the first step, by parameter
  std::vector<std::int64_t> reads;             // by the host, of each step
};

struct Checkpoints {
  std::optional<std::filesystem::path> from = {};  // to go on from
  std::optional<std::filesystem::path> to = {};    // written behind the last step
};

core::MemoryPtr memory_on(On on, int rank) { return on == On::Gpu ? testing::gpu_memory(rank) : core::Memory::cpu(1); }

/// Steps of distilling the golden model from itself, from one kind of start under every layout.
std::vector<Seen> run_steps(const Settings& s, On on, int steps, const Checkpoints& checkpoints = {}) {
  std::vector<Seen> seen(static_cast<std::size_t>(s.ranks));
  const auto run = [&](testing::RankWorld& world) {
    Seen& mine = seen[static_cast<std::size_t>(world.rank)];
    testing::GoldenSteps golden(world.comm, s, memory_on(on, world.rank));
    if (checkpoints.from) testing::go_on_from(*checkpoints.from, golden);
    for (int step = 0; step < steps; ++step) {
      const std::int64_t reads_before = golden.rank().memory()->host_reads;
      const testing::GoldenSteps::Step done = golden.run();
      mine.reads.push_back(golden.rank().memory()->host_reads - reads_before);
      mine.losses.push_back(done.result.loss());
      mine.norms.push_back(done.norm);
      if (step > 0) continue;
      for (const optim::Fragment& f : golden.fragments())
        mine.gradients.push_back(testing::values_of(f.parameter->slot->grad));
    }
    if (checkpoints.to) testing::save(golden, *checkpoints.to);
  };
  testing::run_ranks(s.ranks, run, std::chrono::seconds(60), s.ranks_a_node);
  return seen;
}

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double x : values) result = std::max(result, std::abs(x));
  return result;
}

// float32: 1e-5 of each parameter's greatest gradient, or of a hundredth of the greatest of all. In FP8 a value that is
// near the middle of two codes is off by an eighth where its last bit of bfloat16 is another.
void expect_steps_of_the_cpu(const Settings& settings) {
  const std::vector<Seen> gpu = run_steps(settings, On::Gpu, 2), cpu = run_steps(settings, On::Cpu, 2);
  const double tolerance = settings.fp8_products ? 5e-2 : settings.compute == DType::BF16 ? 2e-2 : 1e-5;
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

class GpuSteps : public ::testing::TestWithParam<Settings> {};

TEST_P(GpuSteps, AreThoseOfTheCpu) { expect_steps_of_the_cpu(GetParam()); }

TEST_P(GpuSteps, RepeatBitForBit) {
  const std::vector<Seen> first = run_steps(GetParam(), On::Gpu, 2), second = run_steps(GetParam(), On::Gpu, 2);
  for (std::size_t r = 0; r < first.size(); ++r) {
    EXPECT_EQ(first[r].losses, second[r].losses);
    EXPECT_EQ(first[r].gradients, second[r].gradients);
    const auto note = [](const std::vector<double>& x) { testing::note_result(x.data(), x.size() * sizeof(double)); };
    note(first[r].losses);
    for (const auto& gradient : first[r].gradients) note(gradient);
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, GpuSteps,
                         ::testing::Values(Settings{}, Settings{.recompute = true, .capacity_factor = 0.7},
                                           Settings{.uses_muon = true}, Settings{.compute = DType::BF16},
                                           Settings{.compute = DType::BF16, .fp8_products = true}, Settings{"tp2", 2},
                                           Settings{.num_predict_layers = 2}, Settings{"ep2", 2, true},
                                           Settings{"dp2ep2", 4}, Settings{.uses_muon = true, .has_states = true}),
                         [](const auto& test) { return fmt::format("{}", test.index); });

const Settings two_level{
    .layout = "ep4", .ranks = 4, .exchange = parallel::ExpertExchange::TwoLevel, .ranks_a_node = 2};
// Of both ranks, in both layers.
const Settings copied{.layout = "ep2", .ranks = 2, .replicated = {{0, 5}, {3, 4}}};
// The first of four ranks has no experts of its own, and copies of one.
const Settings without{.layout = "ep4", .ranks = 4, .replicated = {{0}, {1}}, .num_experts = 3};
const Settings without_in_eight_bits{
    .layout = "ep4", .ranks = 4, .eight_bit = true, .replicated = {{0}, {1}}, .num_experts = 3};

std::string name_of(const ::testing::TestParamInfo<Settings>& test) {
  if (test.param.replicated.empty()) return "TwoLevel";
  if (test.param.num_experts == 0) return "Copied";
  return test.param.eight_bit ? "WithoutInEightBits" : "Without";
}
INSTANTIATE_TEST_SUITE_P(Experts, GpuSteps, ::testing::Values(two_level, copied, without, without_in_eight_bits),
                         name_of);

INSTANTIATE_TEST_SUITE_P(
    Chunks, GpuSteps,
    ::testing::Values(Settings{.layout = "tp2", .ranks = 2, .tensor_chunks = 3},
                      Settings{.layout = "tp2", .ranks = 2, .sequence_parallel = true, .tensor_chunks = 3}),
    [](const auto& test) { return test.param.sequence_parallel ? "Sequence" : "Whole"; });

Settings stages(const char* layout, int ranks, std::int64_t micro_batches, launch::PipelineKind schedule,
                std::int64_t chunks = 1) {
  Settings settings{.layout = layout, .ranks = ranks, .micro_batches = micro_batches};
  settings.stages.schedule = schedule;
  settings.stages.chunks = chunks;
  return settings;
}

// The rings of two and of three stages, both with several chunks, whose streams go round.
INSTANTIATE_TEST_SUITE_P(Stages, GpuSteps,
                         ::testing::Values(stages("pp2", 2, 3, launch::PipelineKind::OneFOneB),
                                           stages("pp2", 2, 4, launch::PipelineKind::Interleaved, 2),
                                           stages("pp3", 3, 5, launch::PipelineKind::ZeroBubble, 2),
                                           stages("pp2ep2", 4, 3, launch::PipelineKind::ZeroBubble)),
                         [](const auto& test) { return fmt::format("{}{}", test.param.layout, test.index); });

Settings sharded(Settings settings, Sharded what, int ranks = 0) {
  settings.sharding = {what, ranks};
  return settings;
}

// Keys that go round while queries look at others; layers whose values come before they run and go behind it.
INSTANTIATE_TEST_SUITE_P(Cut, GpuSteps,
                         ::testing::Values(Settings{.layout = "cp2", .ranks = 2, .micro_batches = 1},
                                           sharded({.layout = "dp2", .ranks = 2}, Sharded::Parameters)),
                         [](const auto& test) { return test.param.layout; });

Settings matching(Settings settings) {
  settings.matches = true;
  return settings;
}

// What layers are held to goes to each stage from the last, whose teacher is ahead, in a group of its own.
INSTANTIATE_TEST_SUITE_P(Taught, GpuSteps,
                         ::testing::Values(matching(stages("pp2", 2, 4, launch::PipelineKind::Interleaved, 2)),
                                           matching(stages("pp3", 3, 5, launch::PipelineKind::ZeroBubble))),
                         [](const auto& test) { return fmt::format("{}{}", test.param.layout, test.index); });

// Of several axes at once, held against the CPU alone.
class GpuLayouts : public ::testing::TestWithParam<Settings> {};

TEST_P(GpuLayouts, TakeTheStepsOfTheCpu) { expect_steps_of_the_cpu(GetParam()); }

Settings first_stage_frozen() {
  Settings settings = stages("pp2", 2, 2, launch::PipelineKind::OneFOneB);
  settings.groups = {{.pattern = "embed.weight", .frozen = true}, {.pattern = "layers.0.*", .frozen = true}};
  return settings;
}

// Capacity looks at whole sequences; of stages both ends have the embedding, whose state is dealt among both; with
// groups of two sharers matrices are Muon's.
INSTANTIATE_TEST_SUITE_P(
    Several, GpuLayouts,
    ::testing::Values(
        Settings{.layout = "cp2tp2", .ranks = 4, .capacity_factor = 0.7, .sequence_parallel = true, .micro_batches = 1},
        Settings{.layout = "ep2etp2", .ranks = 4, .micro_batches = 1, .expert_chunks = 2, .sharded_teacher = true},
        sharded({.layout = "dp4", .ranks = 4, .uses_muon = true, .micro_batches = 1}, Sharded::Gradients, 2),
        sharded({.layout = "dp2ep2", .ranks = 4, .recompute = true, .micro_batches = 1}, Sharded::Parameters),
        stages("tp2pp2", 4, 2, launch::PipelineKind::ZeroBubble),
        sharded(stages("dp2cp2pp2", 8, 2, launch::PipelineKind::OneFOneB), Sharded::OptimizerState),
        first_stage_frozen()),
    [](const auto& test) { return test.param.layout; });

class GpuRuns : public ::testing::TestWithParam<Settings> {};

TEST_P(GpuRuns, TwentyLossesAreThoseOfTheCpu) {
  const Seen gpu = run_steps(GetParam(), On::Gpu, 20).front(), cpu = run_steps(GetParam(), On::Cpu, 20).front();
  for (std::size_t step = 0; step < cpu.losses.size(); ++step)
    EXPECT_NEAR(gpu.losses[step], cpu.losses[step], 1e-4 * cpu.losses[step]) << "step " << step;
}

// On as many ranks, and on one.
TEST_P(GpuRuns, GoOnFromACheckpointOfTheOtherDevice) {
  const testing::TemporaryFolder folder;
  for (const auto& [first, second] : {std::pair{On::Cpu, On::Gpu}, std::pair{On::Gpu, On::Cpu}}) {
    const std::filesystem::path saved = folder.path() / (first == On::Cpu ? "cpu" : "gpu");
    run_steps(GetParam(), first, 3, {.to = saved});
    const Checkpoints from{.from = saved / "step_3"};
    for (const Settings& s : {GetParam(), Settings{}}) {
      const Seen there = run_steps(s, second, 3, from).front(), here = run_steps(s, first, 3, from).front();
      for (std::size_t step = 0; step < here.losses.size(); ++step)
        EXPECT_NEAR(there.losses[step], here.losses[step], 1e-4 * here.losses[step]) << "step " << step;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, GpuRuns,
                         ::testing::Values(Settings{"tp2", 2}, Settings{"ep2", 2}, Settings{"dp2ep2", 4}),
                         [](const auto& test) { return test.param.layout; });

// Each takes a step from where the one before has left off: what it has read, moments too, is that in every bit, and
// its step is the next of one rank that goes on by itself.
TEST(GpuCheckpoints, GoFromEachLayoutToTheNext) {
  const testing::TemporaryFolder folder;
  const std::vector<std::pair<Settings, On>> layouts = {
      {{"pp2", 2}, On::Gpu},
      {{"cp2", 2}, On::Gpu},
      {sharded({.layout = "dp3", .ranks = 3, .micro_batches = 1}, Sharded::Parameters), On::Gpu},
      {{}, On::Cpu},
      {{"tp3", 3}, On::Gpu}};
  const Seen alone = run_steps({}, On::Cpu, static_cast<int>(layouts.size())).front();
  std::map<std::string, std::vector<double>> left;
  for (std::size_t i = 0; i < layouts.size(); ++i) {
    const Settings& settings = layouts[i].first;
    SCOPED_TRACE(settings.layout);
    testing::WrittenState before, behind;
    testing::GoldenSteps::Step step;
    testing::run_ranks(settings.ranks, [&](testing::RankWorld& world) {
      testing::GoldenSteps golden(world.comm, settings, memory_on(layouts[i].second, world.rank));
      if (i > 0) testing::go_on_from(folder / fmt::format("step_{}", i), golden);
      before.add(golden.state());
      const testing::GoldenSteps::Step mine = golden.run();
      if (world.rank == 0) step = mine;
      behind.add(golden.state());
      testing::save(golden, folder.path());
    });
    const auto begun = testing::values_of(before.whole());
    for (const auto& [name, values] : left) EXPECT_EQ(begun.at(name), values) << name;
    left = testing::values_of(behind.whole());
    EXPECT_NEAR(step.result.loss(), alone.losses[i], 1e-4 * alone.losses[i]);
    EXPECT_NEAR(step.norm, alone.norms[i], 1e-3 * alone.norms[i]);
  }
}

// Four times at its end, and for the counts by which rows are exchanged once a layer with experts and pass.
TEST(GpuReads, AreFourAStepAndOneALayerAndPassWithExpertParallelism) {
  const nn::ModelConfig model = GoldenModel("moe.h5").config();
  const auto layers = model.num_layers - std::ssize(model.moe.dense_layers);
  const std::int64_t passes = 2;  // micro-batches
  ASSERT_GT(layers, 0);
  const auto expect = [](const Settings& s, std::int64_t reads) {
    if (s.ranks > testing::num_gpus()) return;  // what ranks that share one exchange is read by the host
    for (const Seen& rank : run_steps(s, On::Gpu, 2)) EXPECT_THAT(rank.reads, ::testing::Each(reads)) << s.layout;
  };
  for (const Settings& s : {Settings{}, Settings{"tp2", 2}, sharded({"cp2", 2}, Sharded::Parameters)}) expect(s, 4);
  for (const Settings& s : {Settings{"ep2", 2}, Settings{"dp2ep2", 4}}) expect(s, 4 + layers * passes);
}

TEST(GpuGeneration, GivesTheSameText) {
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
