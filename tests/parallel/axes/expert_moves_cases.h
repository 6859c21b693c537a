// What experts that change places must bring with them on any world (tests/parallel/comm/comm_cases.h).
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "core/share.h"
#include "parallel/axes/expert_moves.h"
#include "tests/parallel/comm/comm_cases.h"

namespace limbeck::testing {

/// Of expert e the element in row r and column c is 40 e + 10 r + c, of a byte its last eight bits. Experts are dealt
/// over ep, their rows over etp, and what is dealt over all ranks of edp, whole experts or rows of them.
template <class T>
void expert_moves_case_of(const parallel::Mesh& mesh, std::int64_t num_experts, bool is_dealt) {
  const auto memory = Memory::cpu(1);
  const int sharers = is_dealt ? mesh.edp().size() : 1;
  const parallel::ExpertMoves moves(mesh, sharers);
  const core::Slice rows = core::slice_of(3, mesh.etp().rank, mesh.etp().size);
  const core::Slice places = core::slice_of(num_experts, mesh.ep().rank, mesh.ep().size);
  const core::Shape stack{places.count, rows.count, 5};
  const core::Slice share =
      is_dealt ? core::share_of(stack, mesh.edp().rank(), sharers) : core::Slice{0, stack.numel()};
  std::vector<std::int64_t> order(static_cast<std::size_t>(num_experts));  // experts, by place
  std::iota(order.begin(), order.end(), 0);
  /// What this rank has to have of it.
  const auto values = [&] {
    std::vector<T> all;
    for (std::int64_t i = share.first; i < share.first + share.count; ++i) {
      const std::int64_t place = places.first + i / (rows.count * 5), row = i / 5 % rows.count;
      all.push_back(static_cast<T>(40 * order[static_cast<std::size_t>(place)] + 10 * (rows.first + row) + i % 5));
    }
    return all;
  };
  const Tensor kept = Tensor::from<T>(memory, {share.count}, values());
  // Nobody stays; all by one place; the first and the last alone; nobody.
  const std::size_t last = order.size() - 1;
  for (int round = 0; round < 4; ++round) {
    std::vector<std::int64_t> from(order.size());
    std::iota(from.begin(), from.end(), 0);
    if (round == 0) std::ranges::reverse(from);
    if (round == 1) std::rotate(from.begin(), from.begin() + 1, from.end());
    if (round == 2) std::swap(from[0], from[last]);
    std::vector<std::int64_t> next;
    for (const std::int64_t place : from) next.push_back(order[static_cast<std::size_t>(place)]);
    order = next;
    moves.move(kept, stack, is_dealt, from);
    EXPECT_EQ(core::host_values<T>(kept), values()) << mesh.layout().text << " round " << round;
  }
  // One more on each rank.
  const std::vector<std::int64_t> too_many(order.size() + static_cast<std::size_t>(mesh.ep().size));
  EXPECT_THROW(moves.move(kept, stack, is_dealt, too_many), core::Error);
}

inline void expert_moves_case(WorldComm& world) {
  for (const int ep : {1, 2, 3, 4})
    for (const int etp : {1, 2}) {
      if (world.size() % (ep * etp) != 0) continue;
      const parallel::Mesh mesh({std::shared_ptr<void>(), &world},
                                parallel::parse_layout(fmt::format("ep{}etp{}", ep, etp)));
      // One or two on each rank; one or none, one or two, two or three.
      for (const std::int64_t num_experts : {ep, 2 * ep, 1, ep - 1, ep + 1, 3 * ep - 1}) {
        if (num_experts == 0) continue;
        for (const bool is_dealt : {false, true}) {
          expert_moves_case_of<float>(mesh, num_experts, is_dealt);
          expert_moves_case_of<std::uint8_t>(mesh, num_experts, is_dealt);
        }
      }
    }
}

}  // namespace limbeck::testing
