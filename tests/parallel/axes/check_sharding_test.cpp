#include "parallel/axes/check_sharding.h"

#include <gtest/gtest.h>

#include <memory>

#include "parallel/imagined/imagined_world.h"

namespace limbeck::parallel {
namespace {

/// Whether so many neighbours among the ranks of each group that sums gradients are as many everywhere: by its ranks.
bool are_even(const Mesh& mesh, int neighbours) {
  for (const WorldComm* group : {&mesh.data(), &mesh.edp(), &mesh.pp()}) {
    const int apart = group->size() > 1 ? group->in_world(1) - group->in_world(0) : 1;
    if (neighbours % apart != 0 && apart % neighbours != 0) return false;
  }
  return true;
}

TEST(CheckSharding, SaysOfALayoutWhatItsGroupsSay) {
  constexpr int num_ranks = 12;
  int refused = 0;
  for (const char* text : {"dp12", "tp2", "tp3ep2", "cp2tp3", "cp3", "ep4", "ep2etp3", "pp2tp3", "pp3ep4", "pp2cp3tp2",
                           "tp12", "ep12", "pp12"}) {
    const Layout layout = parse_layout(text);
    using World = std::shared_ptr<WorldComm>;
    on_imagined_rank(
        num_ranks, num_ranks - 1,
        [&](const World& world) {
          const Mesh mesh(world, layout);
          for (const int neighbours : {1, 2, 3, 4, 6, 12}) {
            const bool is_even = are_even(mesh, neighbours);
            EXPECT_EQ(sharding_fault(layout, num_ranks, neighbours).empty(), is_even) << text << " " << neighbours;
            if (is_even) continue;
            EXPECT_THROW(check_sharding(mesh, {.ranks = neighbours}), core::UsageError);
            ++refused;
          }
        },
        [&](const World& world) { Mesh(world, layout); });
    EXPECT_EQ(sharding_fault(layout, num_ranks, 0), "");
    EXPECT_EQ(sharding_fault(layout, num_ranks, 5),
              "parallel.shard_ranks is 5, expected a number that divides the world's, 12");
  }
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace limbeck::parallel
