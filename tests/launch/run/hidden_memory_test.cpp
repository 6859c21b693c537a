// Whole steps in memory that the host cannot read, as a GPU's is: the same bits, and few reads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/device/index_check.h"
#include "core/nn/generation.h"
#include "tests/support/golden_steps.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using core::Memory;
using testing::GoldenModel;

using Settings = testing::StepSettings;

/// What a rank sees.
struct Seen {
  std::vector<double> losses, norms;
  std::vector<std::vector<double>> expert_load;
  std::vector<std::vector<double>> weights;  // after the last step
  std::vector<std::int64_t> reads;           // by the host, of each step
};

/// Each rank's two steps of distilling the golden model from itself.
std::vector<Seen> run_steps(const Settings& s, bool is_hidden) {
  std::vector<Seen> runs(static_cast<std::size_t>(s.ranks));
  testing::run_ranks(s.ranks, [&](testing::RankWorld& world) {
    Seen& run = runs[static_cast<std::size_t>(world.rank)];
    testing::GoldenSteps steps(world.comm, s, is_hidden ? Memory::hidden_cpu(1) : Memory::cpu(1));
    const core::MemoryPtr& memory = steps.rank().memory();
    for (int step = 0; step < 2; ++step) {
      const std::int64_t before = memory->host_reads;
      const testing::GoldenSteps::Step seen = steps.run();
      run.losses.push_back(seen.result.loss());
      run.norms.push_back(seen.norm);
      run.expert_load = seen.result.expert_load;
      run.reads.push_back(memory->host_reads - before);
    }
    for (const auto& [name, entry] : steps.state()) run.weights.push_back(testing::values_of(entry.value()));
  });
  return runs;
}

class HiddenMemory : public ::testing::TestWithParam<Settings> {};

TEST_P(HiddenMemory, GivesTheSameBits) {
  const std::vector<Seen> hidden = run_steps(GetParam(), true), open = run_steps(GetParam(), false);
  for (std::size_t r = 0; r < open.size(); ++r) {
    EXPECT_EQ(hidden[r].losses, open[r].losses);
    EXPECT_EQ(hidden[r].norms, open[r].norms);
    EXPECT_EQ(hidden[r].expert_load, open[r].expert_load);
    EXPECT_EQ(hidden[r].weights, open[r].weights);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, HiddenMemory,
    ::testing::Values(
        Settings{}, Settings{.recompute = true}, Settings{.uses_muon = true, .capacity_factor = 0.7},
        Settings{.compute = DType::BF16}, Settings{.compute = DType::BF16, .fp8_products = true},
        Settings{.num_predict_layers = 2}, Settings{"tp2", 2, true, true}, Settings{"ep2", 2, true, false, 0.7},
        Settings{"ep2etp2", 4}, Settings{.layout = "cp2tp2", .ranks = 4, .capacity_factor = 0.7},
        Settings{.layout = "ep2etp2", .ranks = 4, .expert_chunks = 2, .sharded_teacher = true},
        Settings{.layout = "dp4", .ranks = 4, .sharding = {parallel::Sharded::Gradients, 2}},
        Settings{.layout = "dp2", .ranks = 2, .uses_muon = true, .sharding = {parallel::Sharded::Parameters}},
        Settings{.uses_muon = true, .has_states = true}, Settings{.matches = true},
        // The first of four ranks has no experts of its own, and copies of one.
        Settings{.layout = "ep4", .ranks = 4, .replicated = {{0}, {1}}, .num_experts = 3},
        Settings{.layout = "ep4", .ranks = 4, .eight_bit = true, .replicated = {{0}, {1}}, .num_experts = 3}),
    [](const auto& test) { return fmt::format("{}", test.index); });

// Its sums, the experts' load, the gradient's norm, and what was noted of indices: once a step, at its end.
TEST(HiddenMemorySteps, AreReadFourTimes) {
  for (const bool recompute : {false, true})
    for (const std::int64_t further : {0, 2})
      EXPECT_THAT(run_steps({.recompute = recompute, .num_predict_layers = further}, true).front().reads,
                  ::testing::Each(4));
  for (const Settings& settings : {Settings{.has_states = true}, Settings{.matches = true}})
    EXPECT_THAT(run_steps(settings, true).front().reads, ::testing::Each(4));
}

TEST(HiddenMemorySteps, NameTheFirstWrongIndex) {
  const GoldenModel golden("moe.h5");
  const auto memory = Memory::hidden_cpu(1);
  nn::Transformer model(golden.config(), {.memory = memory, .dtype = DType::F32, .frozen = true});
  model.load(golden.parameters());
  const auto notes_of = [&](const std::vector<std::int32_t>& tokens) {
    core::Tape off(core::Tape::Mode::Off);
    core::check_indices(core::Tensor::from<std::int32_t>(memory, {std::ssize(tokens)}, tokens), 0, 97,
                        [](std::int64_t at, std::int64_t id) { return fmt::format("token {} is {}", at, id); });
    core::check_indices(core::Tensor::from<std::int64_t>(memory, {1}, {{5}}), 0, 5,
                        [](std::int64_t, std::int64_t) { return std::string("a later one"); });
    core::NotesCopy(memory).check();
  };
  const auto says = [](const char* words) { return ::testing::ThrowsMessage<core::Error>(words); };
  EXPECT_THAT([&] { notes_of({3, 97, -1}); }, says("token 1 is 97"));
  EXPECT_THAT([&] { notes_of({3, 4}); }, says("a later one")) << "what was noted is forgotten once it is told";
  EXPECT_NO_THROW(core::NotesCopy(memory).check());
}

TEST(HiddenMemorySteps, GenerateTheSameText) {
  const auto text = [](const core::MemoryPtr& memory) {
    const GoldenModel golden("moe.h5");
    nn::Transformer model(golden.config(), {.memory = memory, .dtype = DType::F32, .frozen = true});
    model.load(golden.parameters());
    const std::vector<std::int32_t> prompt = {3, 1, 4};
    return nn::generate(model, prompt, {.max_tokens = 8});
  };
  EXPECT_EQ(text(Memory::hidden_cpu(1)), text(Memory::cpu(1)));
}

TEST(HiddenMemorySteps, RefuseTheHostsHand) {
  const core::Tensor x = core::Tensor::zeros(Memory::hidden_cpu(1), DType::F32, {2});
  EXPECT_THAT([&] { x.host<float>(); },
              ::testing::ThrowsMessage<core::Error>("tensor: float32 [2] lies where the host cannot read it"));
}

}  // namespace
}  // namespace limbeck
