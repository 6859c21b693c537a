// Steps that are recorded once and run again on other samples, at other rates.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/device/recorded_work.h"
#include "tests/gpu/gpus.h"
#include "tests/support/golden_steps.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;
using Settings = testing::StepSettings;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// Other tokens, documents and numbers of targets in each step.
data::TokenBatch varied(data::TokenBatch samples, int step) {
  const auto length = static_cast<std::size_t>(samples.sequence_length), cut = static_cast<std::size_t>(step) + 1;
  for (std::size_t i = 0; i < samples.tokens.size(); ++i) {
    samples.tokens[i] = (samples.tokens[i] + 5 * step) % 97;
    samples.targets[i] = i % (3 + static_cast<std::size_t>(step)) == 0 ? -1 : (samples.tokens[i] + 1) % 97;
    const std::size_t place = i % length;
    samples.documents[i] = place < cut ? 0 : 1;
    samples.positions[i] = static_cast<std::int32_t>(place < cut ? place : place - cut);
  }
  return samples;
}

/// What others have of the memory between two steps.
std::vector<Tensor> taken(const core::MemoryPtr& memory) {
  std::vector<Tensor> all;
  for (const std::int64_t n : {1, 100, 5000, 300000}) {
    all.push_back(Tensor::empty(memory, DType::U8, {n}));
    all.back().fill_zero();
  }
  return all;
}

struct Seen {
  std::vector<double> losses, norms;
  std::vector<std::vector<double>> expert_load;
  std::vector<std::vector<double>> hidden;  // of the student behind each step
  std::vector<std::vector<double>> state;   // weights and moments behind the last one
};

/// `anew`: each step is recorded for itself, as far as any is.
Seen run_steps(const Settings& settings, bool anew) {
  constexpr int steps = 5;
  Seen seen;
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    testing::GoldenSteps golden(world.comm, settings, testing::gpu_memory(0));
    std::vector<Tensor> of_others;
    for (int step = 0; step < steps; ++step) {
      if (anew) golden.training_step().forget_recording();
      const testing::GoldenSteps::Step done = golden.run(varied(golden.samples(), step), 1e-3 * (step + 1));
      seen.losses.push_back(done.result.loss());
      seen.norms.push_back(done.norm);
      seen.expert_load = done.result.expert_load;
      of_others = taken(golden.rank().memory());
      core::Tape off(core::Tape::Mode::Off);
      const nn::Batch batch = launch::make_batch(golden.rank().memory(), golden.samples(), 0, 1);
      seen.hidden.push_back(
          testing::values_of(golden.student().forward(off, golden.student().pass(batch)).hidden.value.to(DType::F32)));
    }
    core::StateDict state = golden.student().state_dict();
    state.merge(golden.optimizer().state_dict());
    for (const auto& [name, entry] : state) seen.state.push_back(testing::values_of(entry.value()));
    for (const Tensor& t : of_others)
      EXPECT_THAT(core::host_values<std::uint8_t>(t), ::testing::Each(0)) << "written by a step";
  });
  return seen;
}

void expect_same(const Seen& a, const Seen& b) {
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  EXPECT_EQ(a.expert_load, b.expert_load);
  EXPECT_EQ(a.hidden, b.hidden);
  EXPECT_EQ(a.state, b.state);
}

class GpuRecordedSteps : public ::testing::TestWithParam<Settings> {};

TEST_P(GpuRecordedSteps, HaveTheBitsOfStepsThatAreQueued) {
  Settings recorded = GetParam();
  recorded.records = true;
  const Seen again = run_steps(recorded, /*anew=*/false);
  EXPECT_NE(again.losses[3], again.losses[4]);
  expect_same(again, run_steps(recorded, /*anew=*/true));
  // A step that is not recorded knows of documents, which may choose another kernel for attention in bfloat16.
  if (GetParam().compute == DType::F32) expect_same(again, run_steps(GetParam(), /*anew=*/false));
}

INSTANTIATE_TEST_SUITE_P(Layouts, GpuRecordedSteps,
                         ::testing::Values(Settings{}, Settings{.recompute = true, .capacity_factor = 0.7},
                                           Settings{.uses_muon = true}, Settings{.eight_bit = true},
                                           Settings{.num_predict_layers = 2}, Settings{.compute = DType::BF16},
                                           Settings{.compute = DType::BF16, .fp8_products = true},
                                           Settings{.has_states = true}, Settings{.offload_state = true}),
                         [](const auto& test) { return fmt::format("{}", test.index); });

TEST(GpuRecordedWork, FreesNothingThatWasThere) {
  const core::MemoryPtr memory = testing::gpu_memory(0);
  Tensor x = Tensor::zeros(memory, DType::F32, {8}), old = Tensor::zeros(memory, DType::F32, {8});
  EXPECT_THAT(
      [&] {
        core::RecordedWork(memory, [&] {
          old.fill_zero();
          old = Tensor();
        });
      },
      ThrowsMessage<core::Error>("recorded work: memory that it reads or writes has been freed"));
  old = Tensor::zeros(memory, DType::F32, {8});
  core::RecordedWork work(memory, [&] { x.fill_zero(); });
  old = Tensor();
  work.run();
  x = Tensor();
  EXPECT_THAT([&] { work.run(); },
              ThrowsMessage<core::Error>("recorded work: memory that it reads or writes has been freed"));
}

TEST(GpuRecordedWork, ThrowsWhatItsQueueThrowsAndLeavesTheMemoryToAll) {
  const core::MemoryPtr memory = testing::gpu_memory(0);
  const Tensor x = Tensor::zeros(memory, DType::F32, {8});
  for (int i = 0; i < 2; ++i)
    EXPECT_THAT([&] { core::RecordedWork(memory, [&] { core::host_values<float>(x); }); },
                ThrowsMessage<std::runtime_error>(HasSubstr("the host wants values while a GPU's work is recorded")));
  EXPECT_THAT(core::host_values<float>(x), ::testing::Each(0));
}

TEST(GpuRecordedWork, TellsOfWrongIndicesEachTime) {
  const core::MemoryPtr memory = testing::gpu_memory(0);
  Tensor ids = Tensor::from<std::int32_t>(memory, {2}, {{1, 7}});
  core::RecordedWork work(memory, [&] {
    core::check_indices(ids, 0, 5, [](std::int64_t at, std::int64_t id) { return fmt::format("{} at {}", id, at); });
  });
  const auto run = [&] {
    work.run();
    core::NotesCopy(memory).check();
  };
  for (int i = 0; i < 2; ++i) EXPECT_THAT(run, ThrowsMessage<core::Error>("7 at 1"));
  ids.copy_from(Tensor::from<std::int32_t>(memory, {2}, {{9, 2}}));
  EXPECT_THAT(run, ThrowsMessage<core::Error>("9 at 0"));
  ids.copy_from(Tensor::from<std::int32_t>(memory, {2}, {{3, 2}}));
  EXPECT_NO_THROW(run());
}

TEST(GpuRecordedWork, IsNotOfACpu) {
  const core::MemoryPtr memory = core::Memory::cpu(1);
  EXPECT_THAT([&] { core::RecordedWork(memory, [] {}); },
              ThrowsMessage<std::runtime_error>(HasSubstr("expected a GPU")));
}

}  // namespace
}  // namespace limbeck
