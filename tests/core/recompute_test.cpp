#include "core/recompute.h"

#include <gmock/gmock.h>

#include "core/ops/add.h"
#include "core/ops/permute.h"
#include "core/ops/rms_norm.h"
#include "core/ops/router.h"
#include "core/ops/swiglu.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::bit_identical;
using ::testing::HasSubstr;
using testing::random_tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(1);

struct Gradients {
  Tensor dx, dlogits, dweight;
  std::int64_t uses = 0;
  int first_passes = 0, passes = 0;
};

enum class How : std::uint8_t { Plain, Once, Nested };

/// Two small blocks with routing; the second pass replays the selection of the first.
Gradients gradients(How how, bool delay = false) {
  Parameter weight{"w", {6}, {}, random_tensor(memory, {6}, 1), std::make_shared<Slot>()};
  weight.slot->parameter = &weight;
  const Var x = leaf(random_tensor(memory, {5, 6}, 2)), z = leaf(random_tensor(memory, {5, 4}, 3));
  Gradients result;
  Tensor selection;
  const Block inner = [&](Tape& tape, std::span<const Var> in) {
    ++result.passes;
    if (!tape.is_replay()) ++result.first_passes;
    const Routing r = route(tape, in[1], 2, true, 1.0, tape.is_replay() ? &selection : nullptr);
    if (!tape.is_replay()) selection = r.selection;
    const Permutation order = make_permutation(r.selection, 4);
    const Var h = permute(tape, rms_norm(tape, in[0], as_var(weight), 1e-5), order);
    return std::vector<Var>{add(tape, in[0], unpermute(tape, swiglu(tape, h, h), r.weights, order))};
  };
  const Block outer = [&](Tape& tape, std::span<const Var> in) {
    const std::vector<Var> inputs(in.begin(), in.end());
    return how == How::Nested ? recompute(tape, inputs, inner) : inner(tape, in);
  };
  Tape tape;
  if (delay) tape.set_weight_parts(Tape::WeightParts::Queued);
  const Var y = (how == How::Plain ? inner(tape, std::vector<Var>{x, z}) : recompute(tape, {x, z}, outer))[0];
  result.uses = tape.uses().at(&weight);
  if (how != How::Plain) {
    EXPECT_EQ(tape.num_steps(), 1U);
  }
  accumulate(y.slot, random_tensor(memory, {5, 6}, 4));
  tape.run();
  tape.run_weight_parts();
  EXPECT_TRUE(tape.uses().empty());
  result.dx = x.slot->grad;
  result.dlogits = z.slot->grad;
  result.dweight = weight.slot->grad;
  return result;
}

TEST(Recompute, ChangesNoBit) {
  const Gradients plain = gradients(How::Plain);
  for (const bool delay : {false, true})
    for (const How how : {How::Once, How::Nested}) {
      const Gradients again = gradients(how, delay);
      EXPECT_TRUE(bit_identical(plain.dx, again.dx));
      EXPECT_TRUE(bit_identical(plain.dlogits, again.dlogits));
      EXPECT_TRUE(bit_identical(plain.dweight, again.dweight));
      EXPECT_EQ(again.uses, 1) << "uses are registered before the block runs again";
      EXPECT_EQ(again.first_passes, 1) << "every later pass is a replay, also of a block inside a block";
      EXPECT_EQ(again.passes, how == How::Once ? 2 : 3);
    }
}

TEST(Recompute, HoldsOnlyTheInputs) {
  const auto own = Memory::cpu(1);
  const Var x = leaf(random_tensor(own, {64, 64}, 1));
  const std::int64_t before = own->statistics().used_bytes;
  Tape tape;
  const auto out = recompute(tape, {x}, [](Tape& inner, std::span<const Var> in) {
    Var y = in[0];
    for (int i = 0; i < 10; ++i) y = swiglu(inner, y, y);
    return std::vector<Var>{y};
  });
  EXPECT_EQ(own->statistics().used_bytes - before, x.value.bytes()) << "the output, and none of what led to it";
}

TEST(Recompute, AnInputWrittenAfterwardsIsAnError) {
  const Var x = leaf(random_tensor(memory, {2, 3}, 1));
  Tape tape;
  const auto out = recompute(
      tape, {x}, [](Tape& inner, std::span<const Var> in) { return std::vector<Var>{scale(inner, in[0], 2)}; });
  accumulate(out[0].slot, random_tensor(memory, {2, 3}, 2));
  Tensor value = x.value;
  value.fill_zero();
  EXPECT_THAT([&] { tape.run(); }, ThrowsMessage<Error>(HasSubstr("written after it was saved")));
}

}  // namespace
}  // namespace limbeck::core
