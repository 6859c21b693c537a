// Rows on their way to the ranks that hold their experts, over a group of ranks.
//
//     auto comm = make_expert_comm(mesh.experts_group(), /*ranks_an_expert=*/2);
//     auto exchange = comm->prepare(counts, offsets);
//     Tensor rows = comm->dispatch_rows(exchange, x);
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/communicators.h"
#include "parallel/axes/mesh.h"

namespace limbeck::parallel {

/// What `prepare` would hear of the ranks, where it is known: [2][ranks of the group][experts of one] rows, those that
/// this rank sends to each rank's experts, and behind them those that it gets of each rank for its own, of `num_rows`
/// that each rank has.
using RowsKnown = std::function<std::vector<std::int64_t>(std::int64_t num_experts, std::int64_t num_rows)>;

/// Over any group: the experts are dealt to its ranks, `ranks_an_expert` neighbours of which share each. All of these
/// get an expert's rows, and what they give back is summed in rank order. `prepare` throws a UsageError unless the
/// number of parts divides that of experts. Rows may be of any dtype; to be summed, of one that Comm reduces.
std::shared_ptr<nn::ExpertComm> make_expert_comm(std::shared_ptr<core::Comm> group, int ranks_an_expert = 1,
                                                 RowsKnown rows_known = {});

}  // namespace limbeck::parallel
