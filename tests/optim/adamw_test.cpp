#include "optim/adamw.h"

#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include <fstream>

#include "optim/clip.h"
#include "optim/schedule.h"
#include "tests/optim/parameters.h"
#include "tests/support/teacher_file.h"

namespace limbeck::optim {
namespace {

using core::Memory;
using core::Parameter;
using core::Shape;
using testing::error_of;
using ::testing::HasSubstr;
using testing::make_parameter;
using testing::set_gradient;

template <class T>
class AdamWOptimizer : public ::testing::Test {
 protected:
  static constexpr double tolerance = sizeof(T) == 4 ? 1e-6 : 1e-12;
  core::MemoryPtr memory = Memory::cpu(1);
};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(AdamWOptimizer, Types);

std::vector<double> ramp(std::int64_t n, double scale) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < n; ++i) values.push_back(scale * std::sin(static_cast<double>(3 * i + 1)));
  return values;
}

template <class T>
void expect_near(const core::Tensor& got, const nlohmann::json& expected, double tolerance, const std::string& what) {
  const auto values = expected.get<std::vector<double>>();
  ASSERT_EQ(got.numel(), static_cast<std::int64_t>(values.size()));
  for (std::size_t i = 0; i < values.size(); ++i)
    EXPECT_NEAR(static_cast<double>(got.data<T>()[i]), values[i], tolerance) << what << " element " << i;
}

// Schedule, clipping and optimizer as in a training loop, against torch.optim.AdamW and transformers' schedule.
TYPED_TEST(AdamWOptimizer, TwentyStepsAsPyTorch) {
  using T = TypeParam;
  std::ifstream file(testing::golden_path("optim/adamw.json"));
  const auto golden = nlohmann::json::parse(file);
  const auto& s = golden["settings"];
  const auto& expected = golden[sizeof(T) == 4 ? "float32" : "float64"];

  std::vector<std::unique_ptr<Parameter>> owned;
  core::ParameterList parameters;
  for (const auto& p : golden["parameters"]) {
    const auto extents = p["shape"].get<std::vector<std::int64_t>>();
    owned.push_back(
        make_parameter<T>(this->memory, p["name"], Shape(std::span(extents)), p["initial"].get<std::vector<T>>()));
    owned.back()->decays = p["decays"];
    parameters.push_back(owned.back().get());
  }
  AdamW adamw(whole_fragments(parameters),
              {.beta1 = s["beta1"], .beta2 = s["beta2"], .eps = s["eps"], .weight_decay = s["decay"]});
  const Schedule schedule{
      .peak_rate = s["peak"], .warmup_steps = s["warmup"], .num_steps = s["steps"], .final_fraction = s["final"]};
  const auto world = core::single_comm();

  for (std::int64_t step = 1; step <= schedule.num_steps; ++step) {
    const auto at = static_cast<std::size_t>(step - 1);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const auto gradient = golden["parameters"][i]["gradients"][at].get<std::vector<T>>();
      set_gradient(*parameters[i], gradient);
      // A stale gradient is a zero one.
      if (gradient == std::vector<T>{0}) set_gradient(*parameters[i], std::vector<T>{123});
      parameters[i]->slot->has_grad = gradient != std::vector<T>{0};
    }
    GradientNorm norm(parameters, *world, s["clip"]);
    EXPECT_NEAR(norm.values().norm, expected["norms"][at].get<double>(), 5 * this->tolerance);
    EXPECT_NEAR(schedule.rate(step), expected["rates"][at].get<double>(), 1e-15);
    adamw.step(schedule.rate(step), norm.factor());
  }
  EXPECT_EQ(adamw.num_steps(), 20);
  core::StateDict state = adamw.state_dict();
  for (const Parameter* p : parameters) {
    expect_near<T>(p->value, expected["values"][p->name], this->tolerance, p->name);
    for (const std::string moment : {"exp_avg", "exp_avg_sq"})
      expect_near<T>(state.at("optimizer/" + p->name + "/" + moment).tensor, expected[moment][p->name], this->tolerance,
                     p->name + " " + moment);
  }
}

TYPED_TEST(AdamWOptimizer, FragmentsAreBitEqualToTheWhole) {
  using T = TypeParam;
  const std::int64_t n = 7 * 143;
  const auto start = ramp(n, 1);
  const std::vector<T> values(start.begin(), start.end());
  auto whole = make_parameter<T>(this->memory, "x", {7, 143}, values);
  auto cut = make_parameter<T>(this->memory, "x", {7, 143}, values);
  AdamW one(whole_fragments({whole.get()}), {});
  AdamW many(
      {{cut.get(), 600, n - 600}, {cut.get(), 0, 1}, {cut.get(), 18, 0}, {cut.get(), 1, 17}, {cut.get(), 18, 582}}, {});
  const core::Tensor scale = core::Tensor::from<double>(this->memory, {1}, {{0.7}});
  for (int step = 1; step <= 3; ++step) {
    const auto g = ramp(n, 0.1 * step);
    for (Parameter* p : {whole.get(), cut.get()}) set_gradient(*p, std::vector<T>(g.begin(), g.end()));
    one.step(1e-2, scale);
    many.step(1e-2, scale);
  }
  EXPECT_EQ(core::host_values<T>(whole->value), core::host_values<T>(cut->value));
  EXPECT_NE(core::host_values<T>(whole->value), values);
}

TYPED_TEST(AdamWOptimizer, AFragmentLeavesTheRestAlone) {
  using T = TypeParam;
  auto p = make_parameter<T>(this->memory, "x", {5}, {1, 2, 3, 4, 5});
  set_gradient<T>(*p, {1, 1, 1, 1, 1});
  AdamW({{p.get(), 1, 2}}, {}).step(0.1);
  const auto after = core::host_values<T>(p->value);
  EXPECT_EQ(after[0], T(1));
  EXPECT_LT(after[1], T(2));
  EXPECT_LT(after[2], T(3));
  EXPECT_EQ(after[3], T(4));
  EXPECT_EQ(after[4], T(5));
}

// Without gradients the update is the decay alone; parameters that do not decay stay.
TYPED_TEST(AdamWOptimizer, OnlyDecayingParametersDecay) {
  using T = TypeParam;
  auto weight = make_parameter<T>(this->memory, "weight", {1}, {8});
  auto norm = make_parameter<T>(this->memory, "norm", {1}, {8});
  norm->decays = false;
  AdamW adamw(whole_fragments({weight.get(), norm.get()}), {.weight_decay = 0.5});
  const auto version = weight->value.version();
  adamw.step(0.5);
  EXPECT_EQ(core::host_values<T>(weight->value), std::vector<T>{6});
  EXPECT_EQ(core::host_values<T>(norm->value), std::vector<T>{8});
  EXPECT_GT(weight->value.version(), version) << "caches of the weight must see the step";
}

TYPED_TEST(AdamWOptimizer, StateLoadsAndContinuesBitEqual) {
  using T = TypeParam;
  auto a = make_parameter<T>(this->memory, "w", {2, 3}, {1, 2, 3, 4, 5, 6});
  auto empty = make_parameter<T>(this->memory, "none", {0, 3}, {});
  a->global_shape = {4, 3};
  a->placement = {{"ep", core::AxisRole::Sharded, 0, 2, 2}};
  a->first_replica = false;
  AdamW first(whole_fragments({a.get(), empty.get()}), {});
  set_gradient<T>(*a, {1, -2, 3, -4, 5, -6});
  for (int i = 0; i < 3; ++i) first.step(0.01);

  auto b = make_parameter<T>(this->memory, "w", {2, 3}, core::host_values<T>(a->value));
  b->global_shape = a->global_shape;
  b->placement = a->placement;
  AdamW second(whole_fragments({b.get(), empty.get()}), {});
  core::StateDict source = first.state_dict();
  ASSERT_EQ(source.size(), 4U);
  const core::StateEntry& entry = source.at("optimizer/w/exp_avg");
  EXPECT_EQ(entry.global_shape, (Shape{4, 3}));
  EXPECT_EQ(entry.offset, (std::vector<std::int64_t>{2, 0}));
  EXPECT_EQ(entry.tensor.shape(), (Shape{2, 3}));
  EXPECT_FALSE(entry.write);
  EXPECT_EQ(source.at("optimizer/none/exp_avg_sq").tensor.shape(), (Shape{0, 3}));

  second.load(testing::DictReader(source));
  second.set_num_steps(first.num_steps());
  set_gradient<T>(*b, {0.5, 0.25, 1, 2, 3, 4});
  set_gradient<T>(*a, {0.5, 0.25, 1, 2, 3, 4});
  first.step(0.02);
  second.step(0.02);
  EXPECT_EQ(second.num_steps(), 4);
  EXPECT_EQ(core::host_values<T>(a->value), core::host_values<T>(b->value));
}

TEST(AdamWErrors, NameTheParameterAndWhatWasExpected) {
  const auto memory = Memory::cpu(1);
  auto x = make_parameter<float>(memory, "layers.0.x", {2, 2}, {1, 2, 3, 4});
  const auto construct = [](std::vector<Fragment> fragments, AdamWSettings settings = {}) {
    return error_of([&] { AdamW(fragments, settings); });
  };
  EXPECT_EQ(construct({}), "");
  EXPECT_THAT(construct({{x.get(), 2, 3}}),
              HasSubstr("fragment of layers.0.x is 3 elements at 2, expected within the 4"));
  EXPECT_THAT(construct({{x.get(), -1, 3}}), HasSubstr("at -1"));
  EXPECT_THAT(construct({{x.get(), 1, INT64_MAX}}), HasSubstr("expected within"));
  EXPECT_THAT(construct({{x.get(), 2, 2}, {x.get(), 0, 3}}), HasSubstr("fragments of layers.0.x overlap"));
  EXPECT_THAT(construct({}, {.beta1 = 1}), HasSubstr("beta1 is 1, expected 0 to below 1"));
  EXPECT_THAT(construct({}, {.beta2 = -0.5}), HasSubstr("beta2"));
  EXPECT_THAT(construct({}, {.eps = -1}), HasSubstr("eps"));
  EXPECT_THAT(construct({}, {.weight_decay = std::nan("")}), HasSubstr("weight_decay"));

  AdamW part({{x.get(), 0, 3}}, {});
  EXPECT_THAT(error_of([&] { part.state_dict(); }), HasSubstr("state of layers.0.x is 3 elements at 0"));
  EXPECT_THAT(error_of([&] { part.set_num_steps(-1); }), HasSubstr("step count is -1"));
  x->slot->grad = core::Tensor::zeros(memory, core::DType::F64, {2, 2});
  x->slot->has_grad = true;
  EXPECT_THAT(error_of([&] { part.step(0.1); }),
              HasSubstr("gradient of layers.0.x is float64 [2,2], expected float32"));
  x->slot->grad = core::Tensor::zeros(memory, core::DType::F32, {3});
  EXPECT_THAT(error_of([&] { part.step(0.1); }), HasSubstr("gradient of layers.0.x is float32 [3]"));
  EXPECT_EQ(part.num_steps(), 0);

  auto whole_number = make_parameter<std::int32_t>(memory, "number", {1}, {0});
  EXPECT_THAT(construct(whole_fragments({whole_number.get()})),
              HasSubstr("number is int32, expected float32, float64 or bfloat16"));
  x->slot.reset();
  EXPECT_THAT(construct(whole_fragments({x.get()})), HasSubstr("parameter layers.0.x is frozen"));
}

}  // namespace
}  // namespace limbeck::optim
