#include "core/parameter_set.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/tape.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::bit_identical;
using ::testing::ElementsAre;

const auto memory = Memory::cpu(1);

/// Rows [first, first + count) of what is cut along its rows.
PlacementRule rows(std::int64_t first, std::int64_t count) {
  return [=](Parameter& p, const Cut& cut) {
    if (cut.dimension == 0) p.placement.push_back({"tp", AxisRole::Sharded, 0, first, count});
  };
}

TEST(ParameterSet, AddsPartsThatAreTrained) {
  ParameterSet parameters({.memory = memory, .dtype = DType::F64, .place = rows(3, 2)});
  Parameter& cut = parameters.add("cut", {7, 4}, {.dimension = 0});
  Parameter& whole = parameters.add("whole", {5}, {}, /*decays=*/false);
  EXPECT_THAT(parameters.list(), ElementsAre(&cut, &whole));
  EXPECT_EQ(cut.name, "cut");
  EXPECT_EQ(cut.global_shape, (Shape{7, 4}));
  EXPECT_EQ(cut.value.shape(), (Shape{2, 4}));
  EXPECT_THAT(cut.offset(), ElementsAre(3, 0));
  EXPECT_EQ(whole.value.shape(), Shape{5});
  EXPECT_EQ(whole.value.dtype(), DType::F64);
  EXPECT_TRUE(cut.decays);
  EXPECT_FALSE(whole.decays);
  EXPECT_EQ(cut.slot->parameter, &cut);
}

TEST(ParameterSet, FrozenOnesHaveNoSlotAndVectorsAreNotNarrow) {
  ParameterSet parameters({.memory = memory, .dtype = DType::BF16, .frozen = true});
  EXPECT_EQ(parameters.add("matrix", {2, 2}).value.dtype(), DType::BF16);
  EXPECT_EQ(parameters.add("vector", {2}).value.dtype(), DType::F32);
  EXPECT_TRUE(parameters.list()[0]->is_frozen());
  parameters.forget_gradients();  // there are none
}

TEST(ParameterSet, ForgottenGradientsBeginAtZero) {
  ParameterSet parameters({.memory = memory});
  Parameter& p = parameters.add("p", {2});
  for (const float g : {1.0F, 5.0F}) {
    parameters.forget_gradients();
    accumulate(p.slot, testing::tensor<float>(memory, {2}, {g, 2 * g}));
    accumulate(p.slot, testing::tensor<float>(memory, {2}, {g, g}));
    EXPECT_THAT(host_values<float>(p.slot->grad), ElementsAre(2 * g, 3 * g));
  }
}

TEST(ParameterSet, NormalNumbersAreNotDrawnForAnImaginedMemory) {
  const auto imagined = Memory::imagined({});
  ParameterSet parameters({.memory = imagined});
  init_normal(parameters.add("p", {64, 32}), 0.02, 1);
  EXPECT_EQ(imagined->statistics().used_bytes, 64 * 32 * 4);
  EXPECT_EQ(imagined->host()->statistics().system_allocations, 0);
}

TEST(ParameterSet, NormalNumbersDoNotDependOnTheLayout) {
  for (const auto dtype : {DType::F32, DType::F64, DType::BF16}) {
    ParameterSet all({.memory = memory, .dtype = dtype});
    ParameterSet part({.memory = memory, .dtype = dtype, .place = rows(3, 2)});
    Parameter& whole = all.add("p", {7, 4}, {.dimension = 0});
    Parameter& cut = part.add("p", {7, 4}, {.dimension = 0});
    Parameter& other = all.add("q", {7, 4});
    for (Parameter* p : {&whole, &cut, &other}) init_normal(*p, 0.5, 3);
    EXPECT_TRUE(bit_identical(whole.value.rows(3, 2), cut.value));
    EXPECT_FALSE(bit_identical(whole.value, other.value));
    init_normal(cut, 0.5, 4);
    EXPECT_FALSE(bit_identical(whole.value.rows(3, 2), cut.value));
  }
}

TEST(ParameterSet, NormalNumbersHaveTheirDeviation) {
  ParameterSet parameters({.memory = memory, .dtype = DType::F64});
  Parameter& p = parameters.add("p", {100, 100});
  init_normal(p, 0.5, 1);
  double sum = 0, squares = 0;
  for (const double x : host_values<double>(p.value)) sum += x, squares += x * x;
  EXPECT_LT(std::abs(sum / 1e4), 5 * 0.5 / 100);
  EXPECT_NEAR(std::sqrt(squares / 1e4), 0.5, 5 * 0.5 / std::sqrt(2e4));
}

}  // namespace
}  // namespace limbeck::core
