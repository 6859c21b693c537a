// Which layers are dropped, against a search in PyTorch that tries every layer on all tokens
// (tests/golden/starts/make_starts.py), whoever has which tokens.

#include "core/nn/student/greedy_layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "core/error.h"
#include "core/slice.h"
#include "launch/run/batch.h"
#include "launch/run/layer_kl.h"
#include "launch/run/student_start.h"
#include "tests/support/golden_model.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using testing::GoldenModel;

const nn::GreedyEffort all_of_all{.tries_all = true, .errors = std::numeric_limits<double>::infinity()};

class GreedyLayers : public ::testing::Test {
 protected:
  GoldenModel golden_{"../starts/greedy.h5"};
  data::TokenBatch samples_ = golden_.samples();

  /// A stage of each sequence but the last, and of all: of each stage this rank's share, a sequence a batch.
  launch::StagedBatches batches_of(launch::Rank& rank) const {
    const int ranks = rank.mesh().dp().size();
    launch::StagedBatches staged;
    std::int64_t begin = 0;
    for (const std::int64_t end : {std::int64_t{1}, std::int64_t{2}, samples_.num_sequences}) {
      const core::Slice mine = core::slice_of(end - begin, rank.mesh().dp().rank(), ranks);
      for (std::int64_t n = 0; n < (end - begin + ranks - 1) / ranks; ++n)
        staged.batches.push_back(launch::make_batch(
            rank.memory(), samples_, std::min(begin + mine.first + n, samples_.num_sequences), n < mine.count ? 1 : 0));
      staged.stages.push_back(staged.batches.size());
      begin = end;
    }
    return staged;
  }

  nn::GreedyLayers chosen(launch::Rank& rank, const nn::Transformer& model, std::int64_t keep,
                          const nn::GreedyEffort& effort = all_of_all) const {
    const launch::StagedBatches text = batches_of(rank);
    const launch::LayerKl kl(rank, model, text.batches, -1);
    return nn::greedy_layers(model, {text.batches, text.stages}, keep, std::cref(kl), *rank.comms().batch, effort);
  }

  /// Of the search that the file names.
  void expect_golden(const nn::GreedyLayers& found, std::size_t num_dropped, const std::string& search) const {
    const std::vector<double> layers = golden_.values(search + "/layers"), kl = golden_.values(search + "/kl");
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
      expect_golden(chosen(rank, model, 1), 6, "/dropped");
      expect_golden(chosen(rank, model, 4), 3, "/dropped");
      const nn::GreedyLayers raced = chosen(rank, model, 1, {.errors = 0.3});
      expect_golden(raced, 6, "/raced");
      EXPECT_EQ(std::vector<double>({static_cast<double>(raced.runs), static_cast<double>(raced.whole_runs)}),
                golden_.values("/raced/runs"));
    });
  }
}

TEST_F(GreedyLayers, LeaveOutWhatIsHopeless) {
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "dp1", 1);
    nn::Transformer model(golden_.config(), rank.frozen_copy(DType::F64));
    model.load(golden_.parameters());
    const nn::GreedyLayers all = chosen(rank, model, 1);
    EXPECT_EQ(all.runs, 7 + 6 + 5 + 4 + 3 + 2);
    EXPECT_LT(all.whole_runs, 2 * 6);  // the others' sums were soon above the best one's
    const nn::GreedyLayers usual = chosen(rank, model, 3, {});
    expect_golden(usual, 4, "/dropped");
    EXPECT_LT(usual.runs, 7 + 6 + 5 + 4 - 6);
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
    const nn::GreedyLayers found = chosen(rank, model, 5, {});
    EXPECT_EQ(found.dropped[0].layer, 5);
    EXPECT_EQ(found.dropped[1].layer, 2);
    EXPECT_NEAR(found.dropped[1].kl, 0, 1e-13);
  });
}

}  // namespace
}  // namespace limbeck
