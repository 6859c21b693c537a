#include "core/tape.h"

#include <gmock/gmock.h>

#include "core/ops/add.h"
#include "core/ops/embedding.h"
#include "core/ops/offset.h"
#include "core/ops/rms_norm.h"
#include "core/ops/swiglu.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::bit_identical;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(1);

Parameter parameter(const std::string& name, const Tensor& value) {
  return {name, value.shape(), {}, value, std::make_shared<Slot>()};
}

struct Model {
  Model() {
    for (Parameter* p : {&first, &second}) p->slot->parameter = p;
  }
  Var operator()(Tape& tape, const Var& x) {
    const Var a = rms_norm(tape, x, as_var(first), 1e-5);
    const Var b = rms_norm(tape, swiglu(tape, a, x), as_var(second), 1e-5);
    return rms_norm(tape, add(tape, a, b), as_var(first), 1e-5);  // a tied weight
  }
  Parameter first = parameter("first", random_tensor(memory, {7}, 1));
  Parameter second = parameter("second", random_tensor(memory, {7}, 2));
};

Tensor seed() { return random_tensor(memory, {3, 7}, 3); }
Tensor input() { return random_tensor(memory, {3, 7}, 4); }

TEST(Tape, BackwardSeedsOneAndFreesWhatItSaved) {
  Tape tape;
  const Var x = leaf(tensor<double>(memory, {1}, {5}));
  const Var y = scale(tape, add(tape, x, x), 3);
  EXPECT_EQ(tape.num_steps(), 2U);
  tape.backward(y);
  EXPECT_EQ(host_value(x.slot->grad), 6);
  EXPECT_EQ(tape.num_steps(), 0U);
}

TEST(Tape, MemoryReturnsAfterBackward) {
  const auto own = Memory::cpu(1);
  Model model;
  {
    Tape tape;
    const Var y = model(tape, leaf(random_tensor(own, {3, 7}, 4)));
    accumulate(y.slot, random_tensor(own, {3, 7}, 5));
    tape.run();
  }
  EXPECT_EQ(own->statistics().used_bytes, 0);
}

TEST(Tape, BackwardOfAConstantOrAVectorFails) {
  Tape tape;
  EXPECT_THAT([&] { tape.backward(constant(Tensor::zeros(memory, DType::F32, {1}))); },
              ThrowsMessage<Error>(HasSubstr("no gradient flows into the loss")));
  EXPECT_THAT([&] { tape.backward(leaf(Tensor::zeros(memory, DType::F32, {2}))); },
              ThrowsMessage<Error>("backward: the loss has shape [2], expected one element"));
}

TEST(Tape, OffRecordsNothing) {
  Tape tape(Tape::Mode::Off);
  Model model;
  EXPECT_EQ(model(tape, leaf(input())).slot, nullptr);
  EXPECT_EQ(tape.num_steps(), 0U);
  EXPECT_TRUE(tape.uses().empty());
}

TEST(Tape, StepsWithoutAGradientRunWithZeros) {
  Tape tape;
  Model model;
  const Var x = leaf(input());
  model(tape, x);  // nothing reaches its output
  tape.run();
  for (const double v : host_values<double>(x.slot->grad)) EXPECT_EQ(v, 0);
  for (const double v : host_values<double>(model.first.slot->grad)) EXPECT_EQ(v, 0);
}

TEST(Tape, ASavedTensorWrittenAfterwardsIsAnError) {
  Tape tape;
  Model model;
  const Var y = model(tape, leaf(input()));
  accumulate(y.slot, seed());
  model.second.value.fill_zero();
  EXPECT_THAT([&] { tape.run(); }, ThrowsMessage<Error>(HasSubstr("saved tensor [7] was written after it was saved")));
}

TEST(Tape, PinnedGradientsStayInTheirMemory) {
  Model model;
  model.first.slot->grad = Tensor::empty(memory, DType::F64, {7});
  const void* at = model.first.slot->grad.raw();
  for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
    Tape tape;
    const Var y = model(tape, constant(input()));
    accumulate(y.slot, seed());
    tape.run();
  }
  EXPECT_EQ(model.first.slot->grad.raw(), at);
  Model once;
  Tape tape;
  const Var y = once(tape, constant(input()));
  accumulate(y.slot, seed());
  tape.run();
  for (int i = 0; i < 7; ++i)
    EXPECT_NEAR(model.first.slot->grad.data<double>()[i], 2 * once.first.slot->grad.data<double>()[i], 1e-12);
}

TEST(Tape, DelayedWeightPartsChangeNoBit) {
  Model now, later;
  for (Model* model : {&now, &later}) {
    Tape tape;
    tape.set_weight_parts(model == &later ? Tape::WeightParts::Queued : Tape::WeightParts::AtOnce);
    const Var x = leaf(input()), y = (*model)(tape, x);
    accumulate(y.slot, seed());
    tape.run();
    if (model == &later) {
      EXPECT_FALSE(model->first.slot->has_grad) << "weight parts wait";
    }
    tape.run_weight_parts();
  }
  EXPECT_TRUE(bit_identical(now.first.slot->grad, later.first.slot->grad));
  EXPECT_TRUE(bit_identical(now.second.slot->grad, later.second.slot->grad));
}

// What is made of a parameter hands its gradient on: its weight part does not wait.
TEST(Tape, AWeightThatIsMadeOfAParameterDoesNotWait) {
  Model now, later;
  for (Model* model : {&now, &later}) {
    Tape tape;
    tape.set_weight_parts(model == &later ? Tape::WeightParts::Queued : Tape::WeightParts::AtOnce);
    const Var y = rms_norm(tape, leaf(input()), offset(tape, as_var(model->first), 1), 1e-5);
    accumulate(y.slot, seed());
    tape.run();
    tape.run_weight_parts();
  }
  EXPECT_TRUE(bit_identical(now.first.slot->grad, later.first.slot->grad));
}

TEST(Tape, EmptiedAndRefilledParametersChangeNoBit) {
  Model whole, emptied;
  for (Model* model : {&whole, &emptied}) {
    Tape tape;
    const Var y = (*model)(tape, constant(input()));
    accumulate(y.slot, seed());
    if (model == &emptied) {
      for (Parameter* p : {&model->first, &model->second}) {
        const auto values = host_values<double>(p->value);
        p->value.storage()->release();
        EXPECT_THAT([&] { p->value.data<double>(); }, ThrowsMessage<Error>(HasSubstr("read while emptied")));
        std::copy(values.begin(), values.end(), static_cast<double*>(p->value.storage()->refill()));
      }
    }
    tape.run();
  }
  EXPECT_TRUE(bit_identical(whole.first.slot->grad, emptied.first.slot->grad));
  EXPECT_TRUE(bit_identical(whole.second.slot->grad, emptied.second.slot->grad));
}

TEST(Tape, CountsTheUsesOfAParameter) {
  Model model;
  Tape tape;
  const Var y = model(tape, constant(input()));
  EXPECT_EQ(tape.uses().at(&model.first), 2);
  EXPECT_EQ(tape.uses().at(&model.second), 1);
  std::vector<std::string> done;
  tape.on_parameter_done([&](Parameter& p) { done.push_back(p.name); });
  accumulate(y.slot, seed());
  tape.run();
  EXPECT_THAT(done, ElementsAre("second", "first"));
}

TEST(GradientLedger, AGradientIsFinalBeforeTheLastBackwardEnds) {
  Model model;
  std::vector<std::string> events;
  GradientLedger ledger(2, [&](Parameter& p) { events.push_back(p.name); });
  for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
    Tape tape;
    ledger.watch(tape);
    const Var x = leaf(input());
    const Var early = tape.output(x.value, {&x});
    tape.push({"early", {x.slot}, [&] { events.push_back("end"); }});
    const Var y = model(tape, early);
    accumulate(y.slot, seed());
    tape.run();
  }
  EXPECT_THAT(events, ElementsAre("end", "second", "first", "end"));
}

}  // namespace
}  // namespace limbeck::core
