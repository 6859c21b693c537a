// bfloat16 weights with float32 master weights.

#include "optim/master_weights.h"

#include <gmock/gmock.h>

#include <cmath>

#include "kernels/muon.h"
#include "optim/optimizer.h"
#include "tests/optim/parameters.h"

namespace limbeck::optim {
namespace {

using core::bf16;
using core::DType;
using core::Memory;
using core::Parameter;
using testing::DictReader;
using testing::make_parameter;

constexpr std::int64_t rows = 5, columns = 7, n = rows * columns;

std::vector<float> noise(int seed) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < n; ++i)
    values.push_back(static_cast<float>(std::sin(static_cast<double>(3 * i + seed))));
  return values;
}

std::unique_ptr<Parameter> narrow(const core::MemoryPtr& memory) {
  std::vector<bf16> values;
  for (const float x : noise(0)) values.emplace_back(x);
  return make_parameter<bf16>(memory, "layers.0.w", {rows, columns}, values);
}

void set_gradient(Parameter& p, int seed) {
  p.slot->grad = core::Tensor::from<float>(p.value.memory(), {rows, columns}, noise(seed));
  p.slot->has_grad = true;
}

std::vector<float> widened(const core::Tensor& t) { return core::host_values<float>(t.to(DType::F32)); }

class MasterWeightsOf : public ::testing::TestWithParam<bool> {
 protected:
  OptimizerSettings settings{.uses_muon = GetParam()};
  core::MemoryPtr memory = Memory::cpu(1);
};

// Steps far below half of bfloat16's spacing add up in the master weights, which step as float32 weights do.
TEST_P(MasterWeightsOf, AreThoseOfAFloat32RunAndTheWeightsTheirRounding) {
  auto half = narrow(memory);
  auto full = make_parameter<float>(memory, "layers.0.w", {rows, columns}, widened(half->value));
  Optimizer of_half(apply_groups({half.get()}, {}), settings), of_full(apply_groups({full.get()}, {}), settings);
  const std::vector<float> before = widened(half->value);
  const core::Tensor scale = core::Tensor::from<double>(memory, {1}, {{0.5}});
  for (int step = 1; step <= 40; ++step) {
    set_gradient(*half, 1);
    set_gradient(*full, 1);
    of_half.step(1e-4, scale);
    of_full.step(1e-4, scale);
    const core::Tensor master = of_half.state_dict().at("optimizer/layers.0.w/master").value();
    EXPECT_EQ(core::host_values<float>(master), core::host_values<float>(full->value));
    EXPECT_EQ(widened(half->value), widened(full->value.to(DType::BF16)));
  }
  EXPECT_NE(widened(half->value), before);
  EXPECT_FALSE(of_full.state_dict().contains("optimizer/layers.0.w/master"));
}

TEST_P(MasterWeightsOf, AreLoadedAndTheRunGoesOnBitEqual) {
  auto a = narrow(memory), b = narrow(memory);
  Optimizer first(apply_groups({a.get()}, {}), settings), second(apply_groups({b.get()}, {}), settings);
  set_gradient(*a, 1);
  first.step(1e-3);
  core::StateDict saved = first.state_dict();
  b->value.copy_from(a->value);
  second.load(DictReader(saved));
  second.set_num_steps(1);
  for (Parameter* p : {a.get(), b.get()}) set_gradient(*p, 2);
  first.step(1e-3);
  second.step(1e-3);
  const auto master = [](const Optimizer& o) {
    return core::host_values<float>(o.state_dict().at("optimizer/layers.0.w/master").value());
  };
  EXPECT_EQ(master(first), master(second));
  EXPECT_EQ(widened(a->value), widened(b->value));
}

// To whole numbers of eighths: what passes see is the rounded weights, what steps add up is the master weights'.
TEST_P(MasterWeightsOf, OfARoundingByTheHostStepAsFloat32WeightsDo) {
  const auto round = [](std::span<float> values) {
    for (float& x : values) x = std::nearbyint(x * 8) / 8;
  };
  const auto rounded = [&](std::vector<float> values) {
    round(values);
    return values;
  };
  auto seen = make_parameter<float>(memory, "layers.0.w", {rows, columns}, noise(0));
  auto full = make_parameter<float>(memory, "layers.0.w", {rows, columns}, noise(0));
  seen->rounding = round;
  Optimizer of_seen(apply_groups({seen.get()}, {}), settings), of_full(apply_groups({full.get()}, {}), settings);
  of_seen.begin_training();
  EXPECT_EQ(core::host_values<float>(seen->value), rounded(noise(0)));
  for (int step = 1; step <= 20; ++step) {
    set_gradient(*seen, 1);
    set_gradient(*full, 1);
    of_seen.step(2e-2);
    of_full.step(2e-2);
    const core::Tensor master = of_seen.state_dict().at("optimizer/layers.0.w/master").value();
    EXPECT_EQ(core::host_values<float>(master), core::host_values<float>(full->value));
    EXPECT_EQ(core::host_values<float>(seen->value), rounded(core::host_values<float>(full->value)));
  }
  EXPECT_NE(core::host_values<float>(seen->value), rounded(noise(0)));

  // And goes on bit for bit; a run without master weights begins with its weights.
  core::StateDict saved = of_seen.state_dict();
  saved["layers.0.w"] = seen->entry(seen->value);
  auto again = make_parameter<float>(memory, "layers.0.w", {rows, columns}, core::host_values<float>(seen->value));
  again->rounding = round;
  Optimizer second(apply_groups({again.get()}, {}), settings);
  second.load(DictReader(saved));
  second.set_num_steps(of_seen.num_steps());
  for (Parameter* p : {seen.get(), again.get()}) set_gradient(*p, 2);
  of_seen.step(2e-2);
  second.step(2e-2);
  EXPECT_EQ(core::host_values<float>(second.state_dict().at("optimizer/layers.0.w/master").value()),
            core::host_values<float>(of_seen.state_dict().at("optimizer/layers.0.w/master").value()));
  EXPECT_EQ(core::host_values<float>(again->value), core::host_values<float>(seen->value));
  core::StateDict plain = of_full.state_dict();
  plain["layers.0.w"] = full->entry(full->value);
  second.load(DictReader(plain));
  EXPECT_EQ(core::host_values<float>(second.state_dict().at("optimizer/layers.0.w/master").value()),
            core::host_values<float>(full->value));
  EXPECT_EQ(core::host_values<float>(again->value), rounded(core::host_values<float>(full->value)));
}

// A run in float32 that goes on with bfloat16 weights loses nothing.
TEST_P(MasterWeightsOf, OfARunInFloat32AreItsWeights) {
  auto full = make_parameter<float>(memory, "layers.0.w", {rows, columns}, noise(0));
  Optimizer before(apply_groups({full.get()}, {}), settings);
  core::StateDict saved = before.state_dict();
  saved["layers.0.w"] = full->entry(full->value);
  auto half = narrow(memory);
  Optimizer after(apply_groups({half.get()}, {}), settings);
  after.load(DictReader(saved));
  EXPECT_EQ(core::host_values<float>(after.state_dict().at("optimizer/layers.0.w/master").value()), noise(0));
}

TEST_P(MasterWeightsOf, AreTheWeightsOfARunThatGoesOnInFloat32) {
  auto half = narrow(memory);
  Optimizer before(apply_groups({half.get()}, {}), settings);
  set_gradient(*half, 1);
  before.step(1e-4);
  const core::StateDict saved = before.state_dict();
  auto full = make_parameter<float>(memory, "layers.0.w", {rows, columns}, widened(half->value));
  Optimizer after(apply_groups({full.get()}, {}), settings);
  after.load(DictReader(saved));
  EXPECT_EQ(core::host_values<float>(full->value),
            core::host_values<float>(saved.at("optimizer/layers.0.w/master").value()));
  EXPECT_NE(core::host_values<float>(full->value), widened(half->value));
}

INSTANTIATE_TEST_SUITE_P(Optimizers, MasterWeightsOf, ::testing::Bool(),
                         [](const auto& muon) { return muon.param ? "Muon" : "AdamW"; });

TEST(MasterWeights, OfAFragmentLeaveTheRestAlone) {
  auto p = narrow(Memory::cpu(1));
  const std::vector<float> before = widened(p->value);
  MasterWeights weights({p.get(), 3, 2});
  float* w = weights.to_step<float>();
  EXPECT_EQ(w[0], before[3]);
  w[0] = 1.00390625F;  // between 1 and 1.0078125: a tie, to even
  w[1] = 1.01171875F;  // between 1.0078125 and 1.015625: a tie, to even
  const std::vector<float> no_update(2);
  const kernels::DecayedStep<float> none{1, 0};
  kernels::decayed_step(kernels::make_cpu(1), &none, nullptr, no_update.data(), w, 2, weights.rounded());
  std::vector<float> expected = before;
  expected[3] = 1;
  expected[4] = 1.015625F;
  EXPECT_EQ(widened(p->value), expected);
}

TEST(MasterWeights, GradientsOfBfloat16WeightsAreFloat32) {
  auto p = narrow(Memory::cpu(1));
  p->slot->grad = core::Tensor::zeros(Memory::cpu(1), DType::BF16, {rows, columns});
  p->slot->has_grad = true;
  EXPECT_THAT(testing::error_of([&] { AdamW(whole_fragments({p.get()}), {}); }),
              ::testing::HasSubstr("gradient of layers.0.w is bfloat16 [5,7], expected float32"));
}

}  // namespace
}  // namespace limbeck::optim
