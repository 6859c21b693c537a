// What the design promises of a training step beyond its numbers: the same bits with and without recomputation, no
// memory from the system once warm, reductions that overlap with backward, exact starts, packed documents that do not
// see each other.

#include <gtest/gtest.h>

#include <cstring>

#include "core/nn/student/student_init.h"
#include "core/ops/linear.h"
#include "core/slice.h"
#include "launch/run/step.h"
#include "optim/adamw.h"
#include "optim/objectives.h"
#include "parallel/threads/thread_world.h"
#include "tests/support/golden_model.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;
using testing::GoldenModel;

/// Gradients of the golden batch on one rank, by name, as bytes.
std::map<std::string, std::vector<std::byte>> gradient_bytes(const launch::StepOptions& options) {
  const GoldenModel golden("moe.h5");
  launch::Rank rank(parallel::ThreadWorld(1).comm(0), "dp1", 1);
  nn::Transformer model(golden.config(), rank.sharded(DType::F32));
  model.load(golden.parameters());
  parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory());
  launch::StepOptions with_losses = options;
  with_losses.router = {.balance = 0.01, .z = 1e-3};
  const optim::LanguageModelling objective;
  launch::forward_backward(rank, {model, nullptr, objective}, golden.samples(), with_losses, sync);
  std::map<std::string, std::vector<std::byte>> result;
  for (const core::Parameter* p : model.parameters()) {
    const Tensor& g = p->slot->grad;
    result[p->name].assign(g.raw(), g.raw() + g.bytes());
  }
  return result;
}

TEST(Promises, RecomputeGivesTheSameBits) { EXPECT_EQ(gradient_bytes({.recompute = true}), gradient_bytes({})); }

TEST(Promises, DelayedWeightPartsGiveTheSameBits) {
  EXPECT_EQ(gradient_bytes({.delay_weight_parts = true}), gradient_bytes({}));
  EXPECT_EQ(gradient_bytes({.recompute = true, .delay_weight_parts = true}), gradient_bytes({}));
}

TEST(Promises, ParametersEmptiedBetweenForwardAndBackwardGiveTheSameBits) {
  const GoldenModel golden("moe.h5");
  const auto memory = core::Memory::cpu(1);
  const data::TokenBatch samples = golden.samples();
  const auto gradients = [&](bool empties) {
    nn::Transformer model(golden.config(), {.memory = memory});
    model.load(golden.parameters());
    const nn::Batch batch = launch::make_batch(memory, samples, 0, samples.num_sequences);
    const nn::Pass pass = model.pass(batch);
    core::Tape tape;
    const core::Var hidden = model.forward(tape, pass).hidden;
    if (empties) {
      std::vector<std::vector<std::byte>> kept;
      for (core::Parameter* p : model.parameters()) {
        kept.emplace_back(p->value.raw(), p->value.raw() + p->value.bytes());
        p->value.storage()->release();
        EXPECT_THROW(p->value.raw(), core::Error);
      }
      std::size_t i = 0;
      for (core::Parameter* p : model.parameters()) {
        std::memcpy(p->value.storage()->refill(), kept[i].data(), kept[i].size());
        ++i;
      }
    }
    core::accumulate(hidden.slot, hidden.value);  // d of half the sum of squares
    tape.run();
    std::vector<std::byte> all;
    for (const core::Parameter* p : model.parameters())
      if (p->slot->has_grad) all.insert(all.end(), p->slot->grad.raw(), p->slot->grad.raw() + p->slot->grad.bytes());
    return all;
  };
  EXPECT_EQ(gradients(true), gradients(false));
}

TEST(Promises, AStepAsksTheSystemForNoMemoryOnceWarm) {
  const GoldenModel golden("moe.h5");
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "ep2", 1);
    nn::Transformer model(golden.config(), rank.sharded(DType::F32));
    model.load(golden.parameters());
    parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory());
    optim::AdamW adamw(optim::whole_fragments(model.parameters()), {});
    const optim::LanguageModelling objective;
    core::MemoryStatistics after_three;
    for (int step = 1; step <= 12; ++step) {
      launch::forward_backward(rank, {model, nullptr, objective}, golden.samples(),
                               {.router = {.balance = 0.01, .z = 1e-3}}, sync);
      adamw.step(1e-2);
      if (step == 3) after_three = rank.memory()->statistics();
    }
    const core::MemoryStatistics at_the_end = rank.memory()->statistics();
    EXPECT_EQ(at_the_end.system_allocations, after_three.system_allocations);
    EXPECT_GT(after_three.system_allocations, 0);
    EXPECT_EQ(at_the_end.used_bytes, after_three.used_bytes);  // a small leak would take long to fill a segment
  });
}

/// Bytes of a rank that a forward pass of the dense golden model keeps for the backward.
std::int64_t kept_bytes(const GoldenModel& golden, const data::TokenBatch& samples, const std::string& layout,
                        int ranks, bool sequence_parallel) {
  std::int64_t kept = 0;
  testing::run_ranks(ranks, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, layout, 1, sequence_parallel);
    nn::Transformer model(golden.config(), rank.sharded(DType::F32));
    model.load(golden.parameters());
    const nn::Batch batch =
        launch::make_batch(rank.memory(), samples, 0, samples.num_sequences, 0, 0, rank.context_place());
    const nn::Pass pass = model.pass(batch);
    const std::int64_t before = rank.memory()->statistics().used_bytes;
    core::Tape tape;
    const core::Var hidden = model.forward(tape, pass).hidden;
    if (rank.is_first()) kept = rank.memory()->statistics().used_bytes - before;
    core::accumulate(hidden.slot, hidden.value);
    tape.run();
    world.comm->barrier();
  });
  return kept;
}

TEST(Promises, SequenceParallelismKeepsAShareOfWhatIsBetweenTheCutProducts) {
  const GoldenModel golden("dense.h5");
  const data::TokenBatch samples = golden.samples();
  const std::int64_t tokens = samples.num_sequences * samples.sequence_length;
  const std::int64_t others = tokens - core::slice_of(tokens, 0, 2).count;  // those that the first rank need not keep
  // A layer keeps the inputs and the outputs of its two norms, and the factors of their rows; the last norm its input.
  const nn::ModelConfig config = golden.config();
  const std::int64_t between = (4 * config.num_layers + 1) * config.width + 2 * config.num_layers + 1;
  const std::int64_t saved = kept_bytes(golden, samples, "tp2", 2, false) - kept_bytes(golden, samples, "tp2", 2, true);
  const std::int64_t expected = others * between * static_cast<std::int64_t>(sizeof(float));
  // Blocks are rounded up, and in each layer one may have a rest that is too small to be cut off; a tensor's share, which
  // each layer would keep more, is 2400 bytes.
  const std::int64_t rounding = 64 * (6 * config.num_layers + 4) + 1024 * config.num_layers;
  EXPECT_NEAR(static_cast<double>(saved), static_cast<double>(expected), static_cast<double>(rounding));
}

TEST(Promises, ContextParallelismKeepsAShareOfEverything) {
  const GoldenModel golden("dense.h5");
  const data::TokenBatch samples = golden.samples();
  const auto alone = static_cast<double>(kept_bytes(golden, samples, "dp1", 1, false));
  const std::int64_t tokens = samples.num_sequences * samples.sequence_length;
  for (const int ranks : {2, 4}) {
    std::int64_t mine = 0;
    for (const core::Slice& piece : nn::pieces_of(samples.sequence_length, {0, ranks}))
      mine += samples.num_sequences * piece.count;
    const double expected = alone * static_cast<double>(mine) / static_cast<double>(tokens);
    // Each tensor is rounded up to 64 bytes, and may have a rest that is too small to be cut off.
    EXPECT_NEAR(static_cast<double>(kept_bytes(golden, samples, "cp" + std::to_string(ranks), ranks, false)), expected,
                0.03 * expected + 4096);
  }
}

TEST(Promises, TheFirstBucketStartsBeforeBackwardEnds) {
  const GoldenModel golden("moe.h5");
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "ep2", 1);
    nn::Transformer model(golden.config(), rank.sharded(DType::F32));
    model.load(golden.parameters());
    parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), DType::F32, 4096);
    const optim::LanguageModelling objective;
    launch::forward_backward(rank, {model, nullptr, objective}, golden.samples(), {.micro_batches = 2}, sync);
    const auto& statistics = sync.statistics();
    EXPECT_GT(statistics.num_buckets, 3);
    EXPECT_GT(statistics.num_final_at_first_start, 0);
    EXPECT_LT(statistics.num_final_at_first_start, static_cast<std::int64_t>(model.parameters().size()) / 2);
  });
}

TEST(Promises, PackedDocumentsEqualEachAlone) {
  const GoldenModel golden("dense.h5");
  const auto memory = core::Memory::cpu(1);
  nn::Transformer model(golden.config(), {.memory = memory, .dtype = DType::F64, .frozen = true});
  model.load(golden.parameters());
  const std::vector<std::int32_t> first = {5, 17, 3, 96, 40};
  const std::vector<std::int32_t> second = {8, 8, 61, 2};
  std::vector<std::int32_t> both = first;
  both.insert(both.end(), second.begin(), second.end());
  const std::vector<std::int32_t> position = {0, 1, 2, 3, 4, 0, 1, 2, 3};
  const std::vector<std::int32_t> document = {0, 0, 0, 0, 0, 1, 1, 1, 1};
  const std::vector<std::int32_t> zeros(9, 0);
  const std::vector<std::int64_t> index = {0, 1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<std::int64_t> offsets = {0, 9};
  const nn::Batch packed = nn::make_batch(memory, {both, zeros, position, document, zeros, index, offsets});
  core::Tape off(core::Tape::Mode::Off);
  const Tensor together = model.forward(off, model.pass(packed)).hidden.value;
  const std::int64_t width = golden.config().width;
  std::int64_t row = 0;
  for (const auto& alone : {first, second}) {
    const nn::Batch batch = nn::one_sequence(memory, alone, 0);
    const Tensor hidden = model.forward(off, model.pass(batch)).hidden.value;
    for (std::int64_t i = 0; i < hidden.numel(); ++i)
      EXPECT_NEAR(together.data<double>()[row * width + i], hidden.data<double>()[i], 1e-13);
    row += static_cast<std::int64_t>(alone.size());
  }
}

class ExactStart : public ::testing::TestWithParam<nn::UpcycleShape> {};

TEST_P(ExactStart, UpcycledLogitsAreThoseOfTheLayerSkippedDenseModel) {
  const GoldenModel golden("dense.h5");
  const auto memory = core::Memory::cpu(1);
  const auto source = golden.parameters();
  const nn::LayerSkip skipped(source, 2, {1});
  nn::ModelConfig dense = golden.config();
  dense.num_layers = 1;
  const nn::Upcycled upcycled(skipped, dense, GetParam(), true, 7);
  ASSERT_TRUE(upcycled.is_exact());
  nn::Transformer before(dense, {.memory = memory, .frozen = true});
  before.load(skipped);
  nn::Transformer after(upcycled.model_config(), {.memory = memory, .frozen = true});
  after.load(upcycled);
  const data::TokenBatch samples = golden.samples();
  const nn::Batch batch = launch::make_batch(memory, samples, 0, samples.num_sequences);
  core::Tape off(core::Tape::Mode::Off);
  const auto logits = [&](const nn::Transformer& model) {
    return core::linear(off, model.forward(off, model.pass(batch)).hidden, model.head()).value;
  };
  const Tensor a = logits(before);
  const Tensor b = logits(after);
  double scale = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) scale = std::max<double>(scale, std::abs(a.data<float>()[i]));
  for (std::int64_t i = 0; i < a.numel(); ++i) ASSERT_NEAR(a.data<float>()[i], b.data<float>()[i], 1e-4 * scale);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, ExactStart,
    ::testing::Values(nn::UpcycleShape{.slices = 1, .experts = 4, .experts_per_token = 1},
                      nn::UpcycleShape{.slices = 4, .experts = 8, .experts_per_token = 4},
                      nn::UpcycleShape{.slices = 2, .experts = 8, .experts_per_token = 4},
                      nn::UpcycleShape{.slices = 4, .experts = 16, .experts_per_token = 8},
                      nn::UpcycleShape{.slices = 4, .experts = 6, .experts_per_token = 3, .shared_slices = 1},
                      nn::UpcycleShape{
                          .slices = 4, .experts = 4, .experts_per_token = 2, .shared_slices = 2, .shared_gate = true}));

TEST(StudentInit, LayerChoices) {
  EXPECT_EQ(nn::evenly_spaced_layers(30, 4), (std::vector<std::int64_t>{0, 10, 19, 29}));
  EXPECT_EQ(nn::evenly_spaced_layers(5, 1), (std::vector<std::int64_t>{0}));
  const std::vector<double> influence = {0.9, 0.1, 0.3, 0.1, 1.0};
  EXPECT_EQ(nn::layers_of_greatest_influence(influence, 3), (std::vector<std::int64_t>{0, 2, 4}));
  EXPECT_EQ(nn::layers_of_greatest_influence(influence, 4),
            (std::vector<std::int64_t>{0, 1, 2, 4}));  // a tie: the lower
  EXPECT_THROW(nn::layers_of_greatest_influence(influence, 6), core::UsageError);
  EXPECT_THROW(nn::evenly_spaced_layers(3, 0), core::UsageError);
  const GoldenModel golden("dense.h5");
  const auto source = golden.parameters();
  EXPECT_THROW(nn::LayerSkip(source, 2, {1, 0}), core::UsageError);
  EXPECT_THROW(nn::LayerSkip(source, 2, {2}), core::UsageError);
  EXPECT_THROW(nn::Upcycled(source, golden.config(), {.slices = 3, .experts = 6, .experts_per_token = 3}, true, 1),
               core::UsageError);
}

TEST(StudentInit, DenseLayersAmongExpertsFollowTheLayersThatAreKept) {
  nn::ModelConfig config = GoldenModel("moe.h5").config();
  config.num_layers = 5;
  config.moe.dense_layers = {0, 3};
  EXPECT_EQ(nn::skip_layers(config, {1, 3, 4}).moe.dense_layers, (std::vector<std::int64_t>{1}));
  EXPECT_EQ(nn::skip_layers(config, {1, 2}).moe.dense_layers, (std::vector<std::int64_t>{}));
  EXPECT_EQ(nn::skip_layers(config, {0, 3}).moe.num_experts, 0);
  EXPECT_THROW(nn::skip_layers(config, {5}), core::UsageError);
  // A layer's weights never come from another one of the same kind.
  const GoldenModel golden("dense.h5");
  const auto source = golden.parameters();
  const nn::LayerSkip skipped(source, 2, {1});
  nn::Transformer both(golden.config(), {.memory = core::Memory::cpu(1), .frozen = true});
  EXPECT_THROW(both.load(skipped), core::Error);
}

/// Every element that this rank holds is the whole model's.
void expect_parts_of(nn::Transformer& model, nn::Transformer& whole) {
  for (const core::Parameter* p : model.parameters()) {
    const double* all = whole.parameter(p->name).value.data<double>();
    const double* mine = p->value.data<double>();
    core::for_each_element(*p,
                           [&](std::int64_t i, std::int64_t global) { ASSERT_EQ(mine[i], all[global]) << p->name; });
  }
}

TEST(Promises, RandomWeightsDoNotDependOnTheLayout) {
  const GoldenModel golden("moe.h5");
  const auto memory = core::Memory::cpu(1);
  nn::Transformer whole(golden.config(), {.memory = memory, .dtype = DType::F64});
  whole.init_random(3);
  for (const char* layout : {"dp2ep2", "tp4", "tp2ep2", "ep2etp2"})
    testing::run_ranks(4, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout, 1);
      nn::Transformer model(golden.config(), rank.sharded(DType::F64));
      model.init_random(3);
      expect_parts_of(model, whole);
    });
}

TEST(Promises, AStudentReadInPartsIsTheOneReadWhole) {
  const GoldenModel golden("dense_uneven.h5");
  const auto source = golden.parameters();
  const nn::LayerSkip skipped(source, 1, {0});
  const nn::Upcycled upcycled(skipped, golden.config(), {.slices = 1, .experts = 4, .experts_per_token = 2}, true, 7);
  const auto memory = core::Memory::cpu(1);
  nn::Transformer whole(upcycled.model_config(), {.memory = memory, .dtype = DType::F64});
  whole.load(upcycled);
  for (const char* layout : {"tp2", "tp2ep2", "ep2etp2", "etp4"})
    testing::run_ranks(4, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout, 1);
      nn::Transformer model(upcycled.model_config(), rank.sharded(DType::F64));
      model.load(upcycled);
      expect_parts_of(model, whole);
    });
}

}  // namespace
}  // namespace limbeck
