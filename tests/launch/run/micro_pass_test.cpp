#include "launch/run/micro_pass.h"

#include <gtest/gtest.h>

#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

// As ZERO_BUBBLE has it: also those of layers behind experts, whose exchange fills its waits on GPUs alone.
TEST(MicroPass, WeightsThatAreLeftHaveNoGradientBeforeTheirTurn) {
  testing::run_ranks(2, [](testing::RankWorld& world) {
    Rank rank(world.comm, "ep2", 1);
    const testing::GoldenModel golden("moe.h5");
    nn::Transformer model(golden.config(), rank.sharded(core::DType::F64));
    model.load(golden.parameters());
    const optim::LanguageModelling objective;
    const StepModels models{model, nullptr, objective};
    const StepInput input = read_input(rank.memory(), rank, golden.samples(), 1, models);
    const StepOptions options;
    StepSums sums(rank, model);
    core::GradientLedger ledger(1, [](core::Parameter&) {});
    MicroPass pass({rank, models, input, options, sums, /*delays_weight_parts=*/true}, 0, 0, ledger);
    const auto with_gradient = [&] {
      std::int64_t count = 0;
      for (const core::Parameter* p : model.parameters())
        if (p->name.starts_with("layers.") && p->global_shape.rank() > 1 && p->slot->has_grad) ++count;
      return count;
    };
    pass.forward({});
    pass.backward({});
    EXPECT_EQ(with_gradient(), 0);
    pass.run_weight_parts();
    EXPECT_GT(with_gradient(), 6 * golden.config().num_layers);  // q, k, v, o, the router, gate, up and down
  });
}

}  // namespace
}  // namespace limbeck::launch
