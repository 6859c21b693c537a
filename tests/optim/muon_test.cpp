#include "optim/muon.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "optim/newton_schulz.h"
#include "optim/optimizer.h"
#include "tests/optim/parameters.h"
#include "tests/support/teacher_file.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::optim {
namespace {

using core::Memory;
using core::Parameter;
using core::Shape;
using testing::DictReader;
using testing::error_of;
using ::testing::HasSubstr;
using testing::make_parameter;
using testing::set_gradient;

nlohmann::json golden() {
  std::ifstream file(testing::golden_path("optim/muon.json"));
  return nlohmann::json::parse(file);
}

template <class T>
void expect_near(const core::Tensor& found, const nlohmann::json& expected, double tolerance, const std::string& what) {
  const auto values = expected.get<std::vector<double>>();
  ASSERT_EQ(found.numel(), static_cast<std::int64_t>(values.size())) << what;
  for (std::size_t i = 0; i < values.size(); ++i)
    EXPECT_NEAR(static_cast<double>(found.data<T>()[i]), values[i], tolerance) << what << ' ' << i;
}

Shape shape_of(const nlohmann::json& list) {
  const auto extents = list.get<std::vector<std::int64_t>>();
  return Shape(std::span(extents));
}

template <class T>
class MuonOptimizer : public ::testing::Test {
 protected:
  static constexpr double tolerance = sizeof(T) == 4 ? 2e-5 : 1e-12;
  core::MemoryPtr memory = Memory::cpu(1);
};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(MuonOptimizer, Types);

TYPED_TEST(MuonOptimizer, NewtonSchulzIsTheReferences) {
  using T = TypeParam;
  const auto expected = golden()["matrix"];
  const auto values = expected["values"].get<std::vector<T>>();
  auto x = core::Tensor::from<T>(this->memory, shape_of(expected["shape"]), values);
  orthogonalise(x);
  expect_near<T>(x, expected["orthogonal"], this->tolerance, "matrix");
  for (const double s : expected["singular_values"].get<std::vector<double>>()) {
    EXPECT_GT(s, 0.6);
    EXPECT_LT(s, 1.3);
  }
  // The transposed matrix gives the transposed result; a factor does not matter.
  const std::int64_t rows = x.shape()[0], columns = x.shape()[1];
  std::vector<T> transposed(values.size());
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      transposed[static_cast<std::size_t>(c * rows + r)] = 1000 * values[static_cast<std::size_t>(r * columns + c)];
  auto y = core::Tensor::from<T>(this->memory, {columns, rows}, transposed);
  orthogonalise(y);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      EXPECT_NEAR(y.template data<T>()[c * rows + r], x.template data<T>()[r * columns + c], this->tolerance);
}

TYPED_TEST(MuonOptimizer, NewtonSchulzOfEdges) {
  using T = TypeParam;
  auto zero = core::Tensor::zeros(this->memory, core::dtype_of<T>(), {3, 2});
  orthogonalise(zero);
  EXPECT_EQ(core::host_values<T>(zero), std::vector<T>(6, 0));
  auto none = core::Tensor::zeros(this->memory, core::dtype_of<T>(), {0, 2});
  EXPECT_NO_THROW(orthogonalise(none));
  // Of one number the polynomial alone: 1 -> 0.7010 -> ..., five times.
  double expected = 1;
  for (int i = 0; i < 5; ++i)
    expected = 3.4445 * expected - 4.7750 * std::pow(expected, 3) + 2.0315 * std::pow(expected, 5);
  auto one = core::Tensor::from<T>(this->memory, {1, 1}, std::vector<T>{-7});
  orthogonalise(one);
  EXPECT_NEAR(core::host_values<T>(one)[0], -expected, 10 * this->tolerance);
  auto vector = core::Tensor::zeros(this->memory, core::dtype_of<T>(), {3});
  EXPECT_THAT(error_of([&] { orthogonalise(vector); }), HasSubstr("shape [3], expected [rows,cols]"));
}

// Wide, tall and square matrices, one row, a stack of which one has no gradient.
TYPED_TEST(MuonOptimizer, TenStepsAreTheReferences) {
  using T = TypeParam;
  const auto file = golden();
  const auto& s = file["settings"];
  std::vector<std::unique_ptr<Parameter>> owned;
  core::ParameterList parameters;
  for (const auto& p : file["parameters"]) {
    owned.push_back(
        make_parameter<T>(this->memory, p["name"], shape_of(p["shape"]), p["initial"].get<std::vector<T>>()));
    parameters.push_back(owned.back().get());
  }
  Muon muon(whole_fragments(parameters), {.momentum = s["momentum"], .weight_decay = s["decay"]});
  for (std::size_t step = 0; step < s["steps"].get<std::size_t>(); ++step) {
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      auto gradient = file["parameters"][i]["gradients"][step].get<std::vector<T>>();
      for (T& g : gradient) g *= 4;
      set_gradient(*parameters[i], gradient);
    }
    muon.step(s["rate"], core::Tensor::from<double>(this->memory, {1}, {{0.25}}));  // the clipping factor applies
  }
  core::StateDict state = muon.state_dict();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto& expected = file["parameters"][i];
    expect_near<T>(parameters[i]->value, expected["final"], this->tolerance, expected["name"]);
    expect_near<T>(state.at("optimizer/" + parameters[i]->name + "/momentum_buffer").value(),
                   expected["momentum_buffer"], this->tolerance, expected["name"].get<std::string>() + " momentum");
  }
}

std::vector<double> noise(std::int64_t n, int seed) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < n; ++i) values.push_back(std::sin(static_cast<double>(5 * i + seed)));
  return values;
}

/// Three steps on a parameter of which this rank has the box that the placement says; the value after.
core::Tensor steps(const core::MemoryPtr& memory, const Shape& global, std::vector<core::AxisPlacement> placement,
                   const AxisComm& axis_comm) {
  Parameter probe;
  probe.name = "layers.0.w";
  probe.global_shape = global;
  probe.placement = std::move(placement);
  Shape local = global;
  for (const auto& a : probe.placement) local[a.dimension] = a.length;
  probe.value = core::Tensor::zeros(memory, core::DType::F64, local);
  const auto part = [&](int seed) {
    const auto whole = noise(global.numel(), seed);
    std::vector<double> mine(static_cast<std::size_t>(local.numel()));
    core::for_each_element(probe, [&](std::int64_t i, std::int64_t at) {
      mine[static_cast<std::size_t>(i)] = whole[static_cast<std::size_t>(at)];
    });
    return mine;
  };
  auto p = make_parameter<double>(memory, probe.name, local, part(0));
  p->global_shape = global;
  p->placement = probe.placement;
  Muon muon(whole_fragments({p.get()}), {}, axis_comm);
  for (int step = 1; step <= 3; ++step) {
    set_gradient(*p, part(step));
    muon.step(0.1);
  }
  EXPECT_EQ(muon.state_dict().at("optimizer/layers.0.w/momentum_buffer").tensor.shape(), local);
  return p->value;
}

struct Cut {
  Shape global;
  int dimension;
  std::vector<std::int64_t> lengths;  // of each rank
};

TEST(MuonSharded, AnyCutGivesTheStepsOfTheWholeBitByBit) {
  const std::vector<Cut> cuts{{{6, 4}, 0, {3, 3}},       {{6, 4}, 1, {1, 3}},    {{4, 9}, 1, {4, 2, 3}},
                              {{5, 3}, 0, {5, 0}},       {{3, 4, 5}, 1, {3, 1}}, {{3, 4, 5}, 2, {2, 2, 1}},
                              {{4, 2, 3}, 0, {1, 1, 2}}, {{2, 3, 2}, 0, {2, 0}}};
  for (const Cut& cut : cuts) {
    const core::Tensor whole = steps(Memory::cpu(1), cut.global, {}, {});
    testing::run_ranks(static_cast<int>(cut.lengths.size()), [&](testing::RankWorld& world) {
      std::int64_t offset = 0;
      for (int r = 0; r < world.rank; ++r) offset += cut.lengths[static_cast<std::size_t>(r)];
      const std::vector<core::AxisPlacement> placement{
          {"tp", core::AxisRole::Sharded, cut.dimension, offset, cut.lengths[static_cast<std::size_t>(world.rank)]}};
      const core::Tensor mine =
          steps(Memory::cpu(1), cut.global, placement, [&](const std::string& axis) -> core::Comm& {
            EXPECT_EQ(axis, "tp");
            return *world.comm;
          });
      Parameter probe;
      probe.global_shape = cut.global;
      probe.placement = placement;
      probe.value = mine;
      core::for_each_element(probe, [&](std::int64_t i, std::int64_t at) {
        EXPECT_EQ(mine.data<double>()[i], whole.data<double>()[at]) << cut.global.numel() << ' ' << i;
      });
    });
  }
}

TEST(Muon, LoadsItsState) {
  const auto memory = Memory::cpu(1);
  auto a = make_parameter<double>(memory, "layers.0.w", {3, 4}, noise(12, 0));
  Muon first(whole_fragments({a.get()}), {});
  set_gradient(*a, noise(12, 1));
  first.step(0.1);
  auto b = make_parameter<double>(memory, "layers.0.w", {3, 4}, core::host_values<double>(a->value));
  Muon second(whole_fragments({b.get()}), {});
  second.load(DictReader(first.state_dict()));
  for (Parameter* p : {a.get(), b.get()}) set_gradient(*p, noise(12, 2));
  first.step(0.1);
  second.step(0.1);
  EXPECT_EQ(core::host_values<double>(a->value), core::host_values<double>(b->value));
}

TEST(Muon, ErrorsNameTheParameter) {
  const auto memory = Memory::cpu(1);
  auto vector = make_parameter<float>(memory, "norm", {4}, {1, 2, 3, 4});
  auto matrix = make_parameter<float>(memory, "w", {2, 2}, {1, 2, 3, 4});
  const auto construct = [](std::vector<Fragment> fragments, MuonSettings settings = {}) {
    return error_of([&] { Muon(fragments, settings); });
  };
  EXPECT_THAT(construct(whole_fragments({vector.get()})), HasSubstr("norm has shape [4], expected [rows,cols]"));
  EXPECT_THAT(construct({{matrix.get(), 1, 2}}), HasSubstr("fragment of w is 2 elements at 1, expected the whole"));
  EXPECT_THAT(construct({}, {.momentum = 1}), HasSubstr("momentum is 1, expected 0 to below 1"));
  EXPECT_THAT(construct({}, {.weight_decay = -1}), HasSubstr("weight_decay is -1"));
  matrix->global_shape = {4, 2};
  matrix->placement = {{"tp", core::AxisRole::Sharded, 0, 0, 2}};
  EXPECT_THAT(construct(whole_fragments({matrix.get()})), HasSubstr("w is cut along tp"));
  matrix->slot.reset();
  EXPECT_THAT(construct(whole_fragments({matrix.get()})), HasSubstr("w is frozen"));
}

TEST(OptimizerChoice, MuonHasTheHiddenMatricesThatNoGroupTakesOut) {
  const auto memory = Memory::cpu(1);
  std::vector<std::unique_ptr<Parameter>> owned;
  core::ParameterList parameters;
  for (const auto& [name, shape] :
       std::initializer_list<std::pair<const char*, Shape>>{{"embed.weight", {2, 2}},
                                                            {"layers.0.attention_norm.weight", {4}},
                                                            {"layers.0.attention.q.weight", {2, 2}},
                                                            {"layers.0.moe.router.weight", {2, 2}},
                                                            {"layers.0.moe.experts.gate", {1, 2, 2}},
                                                            {"head.weight", {2, 2}}}) {
    owned.push_back(make_parameter<float>(memory, name, shape, {1, 2, 3, 4}));
    set_gradient<float>(*owned.back(), {1, -1, 1, 1});
    parameters.push_back(owned.back().get());
  }
  const auto names = [&](const std::vector<Group>& groups, bool uses_muon) {
    const Optimizer optimizer(apply_groups(parameters, groups), {.uses_muon = uses_muon});
    std::vector<std::string> muons;
    for (const auto& [name, entry] : optimizer.state_dict())
      if (name.ends_with("/momentum_buffer")) muons.push_back(name);
    return muons;
  };
  EXPECT_THAT(names({}, true), ::testing::ElementsAre("optimizer/layers.0.attention.q.weight/momentum_buffer",
                                                      "optimizer/layers.0.moe.experts.gate/momentum_buffer",
                                                      "optimizer/layers.0.moe.router.weight/momentum_buffer"));
  EXPECT_THAT(names({{.pattern = "*.router.*", .adamw = true}, {.pattern = "*.q.weight", .rate_factor = 2}}, true),
              ::testing::ElementsAre("optimizer/layers.0.attention.q.weight/momentum_buffer",
                                     "optimizer/layers.0.moe.experts.gate/momentum_buffer"));
  EXPECT_TRUE(names({}, false).empty());

  // The factor of AdamW's rate is for what AdamW has: a first step of Adam is the rate, with the gradient's sign.
  Optimizer optimizer(apply_groups(parameters, {{.pattern = "head.weight", .rate_factor = 2}}),
                      {.uses_muon = true, .adamw = {.weight_decay = 0}, .adamw_rate_factor = 0.5});
  optimizer.step(0.1);
  EXPECT_EQ(optimizer.num_steps(), 1);
  EXPECT_NEAR(parameters[0]->value.data<float>()[0], 1 - 0.05, 1e-6);
  EXPECT_NEAR(parameters[5]->value.data<float>()[1], 2 + 0.1, 1e-6);
}

}  // namespace
}  // namespace limbeck::optim
