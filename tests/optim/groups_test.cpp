#include "optim/groups.h"

#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "optim/adamw.h"
#include "optim/schedule.h"
#include "tests/optim/parameters.h"
#include "tests/support/teacher_file.h"

namespace limbeck::optim {
namespace {

using core::Memory;
using core::Parameter;
using core::Shape;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::make_parameter;
using testing::set_gradient;

struct Parameters {
  std::vector<std::unique_ptr<Parameter>> owned;
  core::ParameterList list;
  void add(std::unique_ptr<Parameter> p) {
    list.push_back(p.get());
    owned.push_back(std::move(p));
  }
};

Parameters named(const std::vector<std::string>& names) {
  Parameters parameters;
  for (const std::string& name : names) parameters.add(make_parameter<float>(Memory::cpu(1), name, {1}, {1}));
  return parameters;
}

std::vector<std::string> names_of(const core::ParameterList& parameters) {
  std::vector<std::string> names;
  for (const Parameter* p : parameters) names.push_back(p->name);
  return names;
}

// Twelve steps with rates, decays and a frozen parameter, as torch.optim.AdamW makes them of its parameter groups.
TEST(Groups, StepsAreThoseOfPyTorchsParameterGroups) {
  std::ifstream file(testing::golden_path("optim/groups.json"));
  const auto golden = nlohmann::json::parse(file);
  const auto& s = golden["settings"];
  const auto memory = Memory::cpu(1);
  Parameters parameters;
  for (const auto& p : golden["parameters"]) {
    const auto extents = p["shape"].get<std::vector<std::int64_t>>();
    parameters.add(
        make_parameter<double>(memory, p["name"], Shape(std::span(extents)), p["initial"].get<std::vector<double>>()));
    parameters.list.back()->decays = extents.size() > 1;
  }
  const std::vector<Group> groups{
      {.pattern = "embed.*", .frozen = true},
      {.pattern = "layers.0.moe.*", .rate_factor = 0.1, .weight_decay = 0.3},
      {.pattern = "layers.*.moe.router.weight", .rate_factor = 2, .weight_decay = 0},
      {.pattern = "layers.[01].attention.?.weight", .rate_factor = 0.5},
      {.pattern = "*_norm.weight", .weight_decay = 5},  // norms never decay
  };
  const std::vector<Trained> trained = apply_groups(parameters.list, groups);
  EXPECT_TRUE(parameters.list[0]->is_frozen());
  EXPECT_EQ(trained.size(), parameters.list.size() - 1);
  AdamW adamw(fragments_of(trained),
              {.beta1 = s["beta1"], .beta2 = s["beta2"], .eps = s["eps"], .weight_decay = s["decay"]});
  const Schedule schedule{.kind = Schedule::Kind::WarmupStableDecay,
                          .peak_rate = s["peak"],
                          .warmup_steps = s["warmup"],
                          .num_steps = s["steps"],
                          .final_fraction = 0,
                          .decay_fraction = s["decay_steps"].get<double>() / s["steps"].get<double>(),
                          .decay = Schedule::Decay::Linear};
  for (std::int64_t step = 1; step <= schedule.num_steps; ++step) {
    for (std::size_t i = 0; i < parameters.list.size(); ++i)
      if (!parameters.list[i]->is_frozen())
        set_gradient(
            *parameters.list[i],
            golden["parameters"][i]["gradients"][static_cast<std::size_t>(step - 1)].get<std::vector<double>>());
    adamw.step(schedule.rate(step));
  }
  for (std::size_t i = 0; i < parameters.list.size(); ++i) {
    const auto expected = golden["parameters"][i]["final"].get<std::vector<double>>();
    const auto found = core::host_values<double>(parameters.list[i]->value);
    for (std::size_t k = 0; k < expected.size(); ++k)
      EXPECT_NEAR(found[k], expected[k], 1e-13) << parameters.list[i]->name << ' ' << k;
  }
  EXPECT_EQ(adamw.state_dict().size(), 2 * trained.size()) << "frozen parameters have no state";
}

TEST(Groups, TheFirstThatMatchesCounts) {
  Parameters p = named({"layers.0.a", "layers.1.a", "layers.10.a", "head.weight"});
  const std::vector<Trained> trained =
      apply_groups(p.list, {{.pattern = "layers.1.*", .frozen = true}, {.pattern = "layers.*", .rate_factor = 3}});
  EXPECT_THAT(names_of(parameters_of(trained)), ElementsAre("layers.0.a", "layers.10.a", "head.weight"));
  EXPECT_EQ(trained[0].group.rate_factor, 3);
  EXPECT_EQ(trained[2].group.rate_factor, 1);
  EXPECT_FALSE(trained[2].group.weight_decay.has_value());
}

TEST(Groups, WhatBelongsToEachIsCounted) {
  Parameters parameters;
  parameters.add(make_parameter<float>(Memory::cpu(1), "a.x", {3}, {1, 2, 3}));
  parameters.add(make_parameter<float>(Memory::cpu(1), "a.y", {2}, {1, 2}));
  parameters.add(make_parameter<float>(Memory::cpu(1), "b", {4}, {1, 2, 3, 4}));
  parameters.list[2]->global_shape = Shape{8};  // this rank has half of it
  const auto counts = count_groups(parameters.list, {{.pattern = "a.y"}, {.pattern = "a.*"}, {.pattern = "b"}});
  ASSERT_EQ(counts.size(), 3U);
  EXPECT_EQ(counts[0].num_tensors, 1);
  EXPECT_EQ(counts[0].num_elements, 2);
  EXPECT_EQ(counts[1].num_tensors, 1);  // the other is the first group's
  EXPECT_EQ(counts[1].num_elements, 3);
  EXPECT_EQ(counts[2].num_elements, 8);
}

TEST(Groups, WithoutGroupsEverythingIsTrainedAsItIs) {
  Parameters p = named({"a", "b"});
  EXPECT_THAT(names_of(parameters_of(apply_groups(p.list, {}))), ElementsAre("a", "b"));
  EXPECT_TRUE(apply_groups({}, {}).empty());
}

TEST(Groups, APatternWithoutAParameterIsNamed) {
  const auto error = [](const std::vector<Group>& groups) {
    Parameters p = named({"embed.weight", "layers.0.a", "head.weight"});
    return error_of([&] { apply_groups(p.list, groups); });
  };
  EXPECT_THAT(
      error({{.pattern = "layers.*"}, {.pattern = "layer.0.a"}}),
      HasSubstr("optimizer.groups[1]: the pattern layer.0.a matches no parameter, expected a module path such as"));
  EXPECT_THAT(error({{.pattern = "layers.0"}}), HasSubstr("matches no parameter"));  // the whole name counts
  EXPECT_THAT(error({{.pattern = ""}}), HasSubstr("matches no parameter"));
  EXPECT_THAT(
      error({{.pattern = "*"}, {.pattern = "head.weight"}}),
      HasSubstr("optimizer.groups[1]: the pattern head.weight matches no parameter that an earlier group leaves"));
  EXPECT_THAT(error_of([] { check_some_trained(0); }), HasSubstr("all parameters are frozen"));
  check_some_trained(1);
}

}  // namespace
}  // namespace limbeck::optim
