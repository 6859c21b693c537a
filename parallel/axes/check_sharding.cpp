#include "parallel/axes/check_sharding.h"

#include <fmt/format.h>

#include <algorithm>

namespace limbeck::parallel {

std::string sharding_fault(const Layout& layout, int num_ranks, int neighbours) {
  if (neighbours == 0) return "";
  if (num_ranks % neighbours != 0)
    return fmt::format("parallel.shard_ranks is {}, expected a number that divides the world's, {}", neighbours,
                       num_ranks);
  const auto size = [](int axis) { return std::max(axis, 1); };  // 0: the layout does not name it
  const int in_stage = num_ranks / size(layout.pp), tp = size(layout.tp), experts = size(layout.ep) * size(layout.etp);
  struct Group {
    const char* name;
    int size, apart;  // as Mesh cuts them
  };
  for (const Group& group : {Group{size(layout.cp) > 1 ? "data" : "dp", in_stage / tp, tp},
                             Group{"edp", in_stage / experts, experts}, Group{"pp", size(layout.pp), in_stage}})
    if (group.size > 1 && neighbours % group.apart != 0 && group.apart % neighbours != 0)
      return fmt::format(
          "parallel.shard_ranks is {}, expected a multiple or a divisor of {}, which the ranks of {} are apart",
          neighbours, group.apart, group.name);
  return "";
}

void check_sharding(const Mesh& mesh, const Sharding& sharding) {
  const std::string fault = sharding_fault(mesh.layout(), mesh.world().size(), sharding.ranks);
  if (!fault.empty()) core::fail_usage("{}", fault);
}

}  // namespace limbeck::parallel
