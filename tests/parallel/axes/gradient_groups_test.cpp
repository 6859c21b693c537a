#include "parallel/axes/gradient_groups.h"

#include <gtest/gtest.h>

#include "parallel/comm/traffic.h"
#include "parallel/imagined/imagined_world.h"

namespace limbeck::parallel {
namespace {

/// The name of the group that sums the gradient of a parameter, partial over an axis, of the last of four ranks.
std::string group_of(const std::string& axis) {
  std::string name;
  const auto groups = [](const auto& world, const auto& use) {
    const Mesh mesh(world, parse_layout("pp2tp2"));
    use(GradientGroups(mesh, {}));
  };
  on_imagined_rank(
      4, 3,
      [&](const auto& world) {
        groups(world, [&](const GradientGroups& all) {
          core::Parameter parameter;
          parameter.placement.push_back({.axis = axis, .role = core::AxisRole::PartialGradient});
          name = all.of(parameter).all->name();
        });
      },
      [&](const auto& world) { groups(world, [](const GradientGroups&) {}); });
  return name;
}

// A table and head that are one lie on both ends of a pipeline.
TEST(GradientGroups, AreNamedByTheirAxis) {
  EXPECT_EQ(axis_of(group_of("pp")), CommAxis::Pp);
  EXPECT_EQ(axis_of(group_of("dp")), CommAxis::Dp);
  EXPECT_EQ(axis_of(group_of("edp")), CommAxis::Edp);
  for (const char* axis : {"pp", "dp", "edp", "tp"})
    EXPECT_NE(group_of(axis).find(" gradients"), std::string::npos) << axis;  // as launch/plan/step_time.cpp finds them
}

}  // namespace
}  // namespace limbeck::parallel
