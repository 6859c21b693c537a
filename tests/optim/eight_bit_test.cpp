// AdamW's moments in 8 bits.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "optim/adamw.h"
#include "tests/optim/parameters.h"
#include "tests/support/teacher_file.h"

namespace limbeck::optim {
namespace {

using core::Memory;
using core::Shape;
using testing::DictReader;
using testing::error_of;
using testing::make_parameter;
using testing::set_gradient;

std::vector<float> noise(std::int64_t n, int seed) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < n; ++i)
    values.push_back(static_cast<float>(std::sin(static_cast<double>(7 * i + seed))));
  return values;
}

// Ten steps of bitsandbytes' AdamW8bit. A moment between two codes may fall to the other side by rounding.
TEST(EightBit, StepsAreThoseOfBitsandbytes) {
  std::ifstream file(testing::golden_path("optim/eight_bit.json"));
  const auto golden = nlohmann::json::parse(file);
  const auto& s = golden["settings"];
  const auto& g = golden["parameter"];
  const auto extents = g["shape"].get<std::vector<std::int64_t>>();
  const auto memory = Memory::cpu(1);
  auto p = make_parameter<float>(memory, "w", Shape(std::span(extents)), g["initial"].get<std::vector<float>>());
  AdamW adamw(
      whole_fragments({p.get()}),
      {.beta1 = s["beta1"], .beta2 = s["beta2"], .eps = s["eps"], .weight_decay = s["decay"], .eight_bit_from = 1});
  const auto num_steps = s["steps"].get<std::size_t>();
  const auto expect = [&](const std::vector<float>& found, const nlohmann::json& expected, double tolerance,
                          const char* what) {
    const auto values = expected.get<std::vector<float>>();
    ASSERT_EQ(found.size(), values.size());
    float greatest = 0, worst = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      greatest = std::max(greatest, std::abs(values[i]));
      worst = std::max(worst, std::abs(found[i] - values[i]));
    }
    EXPECT_LE(worst, tolerance * greatest) << what;
  };
  for (std::size_t step = 0; step < num_steps; ++step) {
    set_gradient(*p, g["gradients"][step].get<std::vector<float>>());
    adamw.step(s["rate"]);
    if (!g["values"][step].is_null())
      expect(core::host_values<float>(p->value), g["values"][step], step == 0 ? 1e-6 : 1e-5, "weights");
  }
  core::StateDict state = adamw.state_dict();
  expect(core::host_values<float>(state.at("optimizer/w/exp_avg").value()), g["exp_avg"], 1e-5, "exp_avg");
  expect(core::host_values<float>(state.at("optimizer/w/exp_avg_sq").value()), g["exp_avg_sq"], 1e-5, "exp_avg_sq");
}

TEST(EightBit, OnlyLargeMatricesAndNeverFloat64) {
  const auto memory = Memory::cpu(1);
  auto large = make_parameter<float>(memory, "large", {16, 20}, noise(320, 1));
  auto small = make_parameter<float>(memory, "small", {16, 19}, noise(304, 2));
  auto norm = make_parameter<float>(memory, "norm", {400}, noise(400, 3));
  const core::ParameterList all{large.get(), small.get(), norm.get()};
  std::vector<std::unique_ptr<core::Parameter>> twins;
  for (const core::Parameter* p : all)
    twins.push_back(make_parameter<float>(memory, p->name, p->global_shape, core::host_values<float>(p->value)));
  AdamW eight(whole_fragments(all), {.eight_bit_from = 320});
  AdamW plain(whole_fragments({twins[0].get(), twins[1].get(), twins[2].get()}), {});
  for (int step = 0; step < 3; ++step) {
    for (std::size_t i = 0; i < 3; ++i) {
      set_gradient(*all[i], noise(all[i]->value.numel(), step));
      set_gradient(*twins[i], noise(all[i]->value.numel(), step));
    }
    eight.step(1e-2);
    plain.step(1e-2);
  }
  EXPECT_NE(core::host_values<float>(large->value), core::host_values<float>(twins[0]->value));
  EXPECT_EQ(core::host_values<float>(small->value), core::host_values<float>(twins[1]->value));
  EXPECT_EQ(core::host_values<float>(norm->value), core::host_values<float>(twins[2]->value));
  auto wide = make_parameter<double>(memory, "wide", {2, 2}, {1, 2, 3, 4});
  EXPECT_THAT(error_of([&] { AdamW(whole_fragments({wide.get()}), {.eight_bit_from = 1}); }),
              ::testing::HasSubstr("moments in 8 bits for float64 wide, expected float32"));
}

TEST(EightBit, MomentsTakeAQuarterOfTheMemory) {
  const auto memory = Memory::cpu(1);
  auto p = make_parameter<float>(memory, "w", {1024, 100}, std::vector<float>(102400, 1));
  const Fragment whole{p.get(), 0, 102400};
  const Moment eight(whole, core::DType::F32, Moment::Form::Block8);
  const Moment plain(whole, core::DType::F32, Moment::Form::Plain);
  EXPECT_EQ(plain.bytes(), 4 * 102400);
  EXPECT_EQ(eight.bytes(), 102400 + 4 * 400);
}

TEST(EightBit, AnExpertOfAStackStepsAsItDoesAlone) {
  const auto memory = Memory::cpu(1);
  const std::int64_t experts = 3, each = 7 * 43;
  auto stack = make_parameter<float>(memory, "w", {experts, 7, 43}, noise(experts * each, 1));
  AdamW whole(whole_fragments({stack.get()}), {.eight_bit_from = 1});
  const auto part = [&](const std::vector<float>& values, std::int64_t e) {
    return std::vector<float>(values.begin() + e * each, values.begin() + (e + 1) * each);
  };
  std::vector<std::unique_ptr<core::Parameter>> alone;
  core::ParameterList list;
  for (std::int64_t e = 0; e < experts; ++e) {
    alone.push_back(
        make_parameter<float>(memory, fmt::format("w{}", e), {1, 7, 43}, part(noise(experts * each, 1), e)));
    list.push_back(alone.back().get());
  }
  AdamW parts(whole_fragments(list), {.eight_bit_from = 1});
  for (int step = 0; step < 4; ++step) {
    set_gradient(*stack, noise(experts * each, step));
    for (std::int64_t e = 0; e < experts; ++e)
      set_gradient(*alone[static_cast<std::size_t>(e)], part(noise(experts * each, step), e));
    whole.step(1e-2);
    parts.step(1e-2);
  }
  for (std::int64_t e = 0; e < experts; ++e)
    EXPECT_EQ(core::host_values<float>(alone[static_cast<std::size_t>(e)]->value),
              part(core::host_values<float>(stack->value), e));
}

TEST(EightBit, LoadedStateContinuesBitEqualAndInOtherFragmentsNearly) {
  const auto memory = Memory::cpu(1);
  const std::int64_t n = 7 * 143;
  auto a = make_parameter<float>(memory, "w", {7, 143}, noise(n, 1));
  AdamW first(whole_fragments({a.get()}), {.eight_bit_from = 1});
  for (int step = 0; step < 5; ++step) {
    set_gradient(*a, noise(n, step));
    first.step(1e-2);
  }
  auto b = make_parameter<float>(memory, "w", {7, 143}, core::host_values<float>(a->value));
  AdamW second(whole_fragments({b.get()}), {.eight_bit_from = 1});
  second.load(DictReader(first.state_dict()));
  second.set_num_steps(first.num_steps());
  // A run with float32 moments reads them as well.
  auto c = make_parameter<float>(memory, "w", {7, 143}, core::host_values<float>(a->value));
  AdamW plain(whole_fragments({c.get()}), {});
  plain.load(DictReader(first.state_dict()));
  plain.set_num_steps(first.num_steps());
  for (int step = 5; step < 9; ++step) {
    for (core::Parameter* p : {a.get(), b.get(), c.get()}) set_gradient(*p, noise(n, step));
    first.step(1e-2);
    second.step(1e-2);
    plain.step(1e-2);
  }
  EXPECT_EQ(core::host_values<float>(a->value), core::host_values<float>(b->value));
  const auto eight = core::host_values<float>(a->value), wide = core::host_values<float>(c->value);
  for (std::size_t i = 0; i < eight.size(); ++i) EXPECT_NEAR(eight[i], wide[i], 2e-3);  // of four steps of 1e-2
  EXPECT_NE(eight, wide);
}

}  // namespace
}  // namespace limbeck::optim
