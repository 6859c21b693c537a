// Parameters that a group freezes: the gradients of the others are those of the whole model, bit by bit, under every
// layout and however the step is cut.

#include <gtest/gtest.h>

#include "launch/run/step.h"
#include "optim/groups.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using Bytes = std::map<std::string, std::vector<std::byte>>;

/// The gradients of this rank's parts of the golden model, with what the groups leave.
Bytes gradients_of(launch::Rank& rank, const std::vector<optim::Group>& groups, const launch::StepOptions& options) {
  const testing::GoldenModel golden("moe.h5");
  nn::Transformer model(golden.config(), rank.sharded(core::DType::F32));
  model.load(golden.parameters());
  const core::ParameterList trained = optim::parameters_of(optim::apply_groups(model.parameters(), groups));
  parallel::GradientSync sync(trained, rank.mesh(), rank.memory(), core::DType::F32, 4096);
  launch::StepOptions with_losses = options;
  with_losses.router = {0.01, 1e-3};
  const optim::LanguageModelling objective;
  launch::forward_backward(rank, {model, nullptr, objective}, golden.samples(), with_losses, sync);
  Bytes result;
  for (const core::Parameter* p : trained) {
    const core::Tensor& g = p->slot->grad;
    result[p->name].assign(g.raw(), g.raw() + g.bytes());
  }
  return result;
}

class Frozen : public ::testing::TestWithParam<const char*> {};

TEST_P(Frozen, TheOthersHaveTheGradientsOfTheWholeModel) {
  const std::vector<optim::Group> groups{{.pattern = GetParam(), .frozen = true}};
  for (const auto& [layout, ranks] : {std::pair("dp1", 1), std::pair("ep2", 2)})
    testing::run_ranks(ranks, [&, layout = layout](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout, 1);
      Bytes expected = gradients_of(rank, {}, {});
      const auto num_all = expected.size();
      Bytes found;
      for (const launch::StepOptions& options : {launch::StepOptions{}, launch::StepOptions{.recompute = true},
                                                 launch::StepOptions{.recompute = true, .delay_weight_parts = true}}) {
        found = gradients_of(rank, groups, options);
        std::erase_if(expected, [&](const auto& entry) { return !found.contains(entry.first); });
        EXPECT_EQ(found, expected) << GetParam() << ' ' << layout;
      }
      EXPECT_GT(found.size(), 0U);
      EXPECT_LT(found.size(), num_all);
    });
}

INSTANTIATE_TEST_SUITE_P(Patterns, Frozen,
                         ::testing::Values("embed.weight", "layers.0.*", "*.attention.*", "*.moe.*", "*router*",
                                           "*norm*", "norm.weight", "[el]*", "*experts*", "*[!m].weight"));

}  // namespace
}  // namespace limbeck
