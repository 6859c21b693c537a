#include "parallel/imagined/imagined_world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "parallel/axes/gradient_groups.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::parallel {
namespace {

using Groups = std::map<std::string, std::vector<int>>;  // ranks of the world, by name

std::vector<int> ranks_of(const WorldComm& group) {
  std::vector<int> ranks;
  for (int r = 0; r < group.size(); ++r) ranks.push_back(group.in_world(r));
  EXPECT_EQ(ranks.at(static_cast<std::size_t>(group.rank())), group.in_world(group.rank()));
  return ranks;
}

Groups groups_of(const std::shared_ptr<WorldComm>& world, const std::string& layout) {
  const Mesh mesh(world, parse_layout(layout));
  const GradientGroups gradients(mesh, {Sharded::OptimizerState, 4});
  Groups groups = {{"dp", ranks_of(mesh.dp())},          {"cp", ranks_of(mesh.cp())},
                   {"tp", ranks_of(mesh.tp())},          {"edp", ranks_of(mesh.edp())},
                   {"etp", ranks_of(mesh.along("etp"))}, {"experts", ranks_of(*mesh.experts_group())}};
  for (std::size_t i = 0; i < GradientGroups::count; ++i) {
    groups["all " + std::to_string(i)] = ranks_of(*gradients[i].all);
    groups["sharers " + std::to_string(i)] = ranks_of(*gradients[i].sharers);
    groups["twins " + std::to_string(i)] = ranks_of(*gradients[i].twins);
  }
  return groups;
}

// Whoever is watched has the groups that it has among ranks that are there.
TEST(ImaginedWorld, HasTheGroupsOfAWorldThatIsThere) {
  for (const std::string layout : {"dp8", "tp2ep4", "cp2tp2ep2etp2"}) {
    std::vector<Groups> real(8);
    testing::run_ranks(8, [&](testing::RankWorld& world) {
      real[static_cast<std::size_t>(world.rank)] = groups_of(world.comm, layout);
    });
    for (const int watched : {0, 3, 7}) {
      Groups imagined;
      on_imagined_rank(
          8, watched, [&](const auto& world) { imagined = groups_of(world, layout); },
          [&](const auto& world) { groups_of(world, layout); });
      EXPECT_EQ(imagined, real[static_cast<std::size_t>(watched)]) << layout << ' ' << watched;
    }
  }
}

TEST(ImaginedWorld, ThrowsWhatTheWatchedRankThrows) {
  const auto says = [](const auto& body, const auto& groups) {
    return testing::error_of([&] { on_imagined_rank(4, 1, body, groups); });
  };
  const auto splits = [](const auto& world) { world->split(0, world->rank(), "all"); };
  EXPECT_EQ(says([](const auto&) { core::fail("no such run"); }, splits), "no such run");
  EXPECT_EQ(says(splits, [](const auto&) { core::fail("of another"); }), "an imagined rank has left");
}

}  // namespace
}  // namespace limbeck::parallel
