// Tokens on their way to the ranks that hold their experts, over a group of ranks.
//
//     auto comm = make_expert_comm(mesh.experts_group(), /*ranks_an_expert=*/2, mesh.expert_nodes());
//     auto exchange = comm->prepare(selection, num_experts);
//     Tensor here = comm->dispatch_rows(exchange, x);
//
// Flat: a token goes once to each rank that has one of its experts, and their sum is made where it came from. By two
// levels: it goes once to each such node, to the rank there that has this one's place on its node (counted round the
// end), which gives it to the ranks of its node; and sums what these give back, so that one row a token and node
// returns.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/communicators.h"
#include "parallel/axes/mesh.h"

namespace limbeck::parallel {

/// Where nobody's choices are there to be read: the part of the tokens, each of which chooses so many experts, that
/// choose one or more of these [E].
using ChoicesKnown = std::function<double(const std::vector<bool>& experts, std::int64_t choices)>;

/// Over any group: the experts are dealt to its ranks, `ranks_an_expert` neighbours of which share each. By two levels
/// where `nodes` are given. Tokens are of a dtype that activations have.
std::shared_ptr<nn::ExpertComm> make_expert_comm(std::shared_ptr<core::Comm> group, int ranks_an_expert = 1,
                                                 const ExpertNodes& nodes = {}, ChoicesKnown known = {});

}  // namespace limbeck::parallel
