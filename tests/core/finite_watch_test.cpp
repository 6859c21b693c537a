#include "core/finite_watch.h"

#include <gmock/gmock.h>

#include <limits>

#include "core/ops/add.h"
#include "core/ops/rms_norm.h"
#include "core/recompute.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using ::testing::HasSubstr;
using testing::tensor;

const auto memory = Memory::cpu(1);
constexpr double infinite = std::numeric_limits<double>::infinity();

struct Watched {
  Watched() {
    tape.set_watch(&watch);
    weight.slot->parameter = &weight;
    watch.begin("the forward pass");
  }
  std::string found() const { return watch.first() ? watch.first()->what : "nothing"; }

  Parameter weight{"layers.3.norm.weight", Shape{2}, {}, tensor<double>(memory, {2}, {1, 1}), std::make_shared<Slot>()};
  FiniteWatch watch;
  Tape tape;
  Var x = leaf(tensor<double>(memory, {1, 2}, {1, 2}));
};

TEST(FiniteWatch, FindsNothingWhereAllIsFinite) {
  Watched w;
  const Var y = scale(w.tape, rms_norm(w.tape, w.x, as_var(w.weight), 1e-5), 2);
  accumulate(y.slot, tensor<double>(memory, {1, 2}, {1, 1}));
  w.tape.run();
  EXPECT_EQ(w.found(), "nothing");
}

TEST(FiniteWatch, NamesTheFirstOperationAndTheParameterBeforeIt) {
  Watched w;
  const Var normed = rms_norm(w.tape, w.x, as_var(w.weight), 1e-5);
  const Var y = scale(w.tape, normed, infinite);
  add(w.tape, y, y);
  EXPECT_EQ(w.found(), "what scale gives in the forward pass, behind rms_norm of layers.3.norm.weight");
  EXPECT_EQ(w.watch.first()->place, 1);
}

TEST(FiniteWatch, AnOperationWithoutAGradientHasNoName) {
  Watched w;
  scale(w.tape, constant(w.x.value), infinite);
  EXPECT_EQ(w.found(), "what an operation gives in the forward pass");
}

TEST(FiniteWatch, FindsGradients) {
  Watched w;
  const Var y = rms_norm(w.tape, scale(w.tape, w.x, 3), as_var(w.weight), 1e-5);
  w.watch.begin("the backward pass");
  accumulate(y.slot, tensor<double>(memory, {1, 2}, {infinite, 1}));
  w.tape.run();
  EXPECT_THAT(w.found(), HasSubstr("in the backward pass"));
  EXPECT_THAT(w.found(), HasSubstr("rms_norm"));
}

TEST(FiniteWatch, SeesRecomputedBlocks) {
  Watched w;
  recompute(w.tape, {w.x},
            [](Tape& inner, std::span<const Var> in) { return std::vector<Var>{scale(inner, in[0], infinite)}; });
  EXPECT_EQ(w.found(), "what scale gives in the forward pass");
}

TEST(FiniteWatch, SeesDelayedWeightParts) {
  Watched w;
  w.tape.set_weight_parts(Tape::WeightParts::Queued);
  const SlotPtr slot = w.weight.slot;
  w.tape.push({"product", {}, {}, {slot}, [&] { accumulate(slot, tensor<double>(memory, {2}, {infinite, 0})); }});
  w.watch.begin("the backward pass");
  w.tape.run();
  EXPECT_EQ(w.found(), "nothing");
  w.tape.run_weight_parts();
  EXPECT_EQ(w.found(), "the gradient of layers.3.norm.weight by product in the backward pass");
}

}  // namespace
}  // namespace limbeck::core
