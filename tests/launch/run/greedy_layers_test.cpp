// Which layers are dropped, against a search in PyTorch that tries every layer on all tokens
// (tests/golden/starts/make_starts.py), whoever has which tokens.

#include "core/nn/student/greedy_layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "core/error.h"
#include "core/slice.h"
#include "launch/run/batch.h"
#include "launch/run/layer_kl.h"
#include "tests/support/golden_model.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using testing::GoldenModel;

class GreedyLayers : public ::testing::Test {
 protected:
  GoldenModel golden_{"../starts/greedy.h5"};
  data::TokenBatch samples_ = golden_.samples();

  /// A sequence a batch, of this rank's share of them.
  std::vector<nn::Batch> batches_of(launch::Rank& rank) const {
    const int ranks = rank.mesh().dp().size();
    const core::Slice mine = core::slice_of(samples_.num_sequences, rank.mesh().dp().rank(), ranks);
    std::vector<nn::Batch> batches;
    for (std::int64_t n = 0; n < (samples_.num_sequences + ranks - 1) / ranks; ++n)
      batches.push_back(launch::make_batch(rank.memory(), samples_, std::min(mine.first + n, samples_.num_sequences),
                                           n < mine.count ? 1 : 0));
    return batches;
  }

  nn::GreedyLayers chosen(launch::Rank& rank, const nn::Transformer& model, std::int64_t keep,
                          std::int64_t kept_bytes = launch::LayerKl::most_bytes) const {
    const std::vector<nn::Batch> batches = batches_of(rank);
    const launch::LayerKl kl(rank, model, batches, -1, kept_bytes);
    return nn::greedy_layers(model, batches, samples_.sequence_length, keep, std::cref(kl), *rank.comms().batch);
  }

  void expect_golden(const nn::GreedyLayers& found, std::size_t num_dropped) const {
    const std::vector<double> layers = golden_.values("/dropped/layers"), kl = golden_.values("/dropped/kl");
    ASSERT_EQ(found.dropped.size(), num_dropped);
    std::vector<std::int64_t> kept = {0, 1, 2, 3, 4, 5, 6};
    for (std::size_t i = 0; i < num_dropped; ++i) {
      EXPECT_EQ(found.dropped[i].layer, std::llround(layers[i])) << "at " << i;
      EXPECT_NEAR(found.dropped[i].kl, kl[i], 1e-10 * kl[i]) << "at " << i;
      std::erase(kept, std::llround(layers[i]));
    }
    EXPECT_EQ(found.kept, kept);
  }
};

TEST_F(GreedyLayers, AreThoseOfTheSearchWrittenOutUnderEveryLayout) {
  const std::vector<std::pair<const char*, int>> layouts = {{"dp1", 1}, {"dp2", 2},    {"tp2", 2},
                                                            {"ep2", 2}, {"dp2tp2", 4}, {"dp4", 4}};
  for (const auto& [layout, ranks] : layouts) {
    testing::run_ranks(ranks, [&, layout = layout](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout, 1);
      nn::Transformer model(golden_.config(), rank.frozen_copy(DType::F64));
      model.load(golden_.parameters());
      SCOPED_TRACE(layout);
      expect_golden(chosen(rank, model, 1), 6);
      expect_golden(chosen(rank, model, 4), 3);
      expect_golden(chosen(rank, model, 1, /*kept_bytes=*/0), 6);
    });
  }
}

TEST_F(GreedyLayers, LeaveAModelAsSoonAsItIsWorse) {
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "dp1", 1);
    nn::Transformer model(golden_.config(), rank.frozen_copy(DType::F64));
    model.load(golden_.parameters());
    const nn::GreedyLayers found = chosen(rank, model, 1);
    EXPECT_EQ(found.runs, 7 + 6 + 5 + 4 + 3 + 2);
    EXPECT_GE(found.whole_runs, 6);
    EXPECT_LT(found.whole_runs, 2 * 6);
    EXPECT_THAT(chosen(rank, model, 7).kept, ::testing::ElementsAre(0, 1, 2, 3, 4, 5, 6));
    EXPECT_THROW(chosen(rank, model, 0), core::UsageError);
    EXPECT_THROW(chosen(rank, model, 8), core::UsageError);
  });
}

// Layers that do nothing leave no KL at all, and it does not matter which goes: the last.
TEST_F(GreedyLayers, OfATieTheLastLayerIsDropped) {
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "dp2", 1);
    nn::Transformer model(golden_.config(), rank.frozen_copy(DType::F64));
    model.load(golden_.parameters());
    for (const char* name : {"layers.2.attention.o.weight", "layers.2.mlp.down.weight", "layers.5.attention.o.weight",
                             "layers.5.mlp.down.weight"})
      model.parameter(name).value.fill_zero();
    const nn::GreedyLayers found = chosen(rank, model, 5);
    EXPECT_EQ(found.dropped[0].layer, 5);
    EXPECT_EQ(found.dropped[1].layer, 2);
    EXPECT_NEAR(found.dropped[1].kl, 0, 1e-13);
  });
}

}  // namespace
}  // namespace limbeck
