// Copies of experts on all ranks of the group among which they are dealt.
//
//     auto comm = make_replica_comm(mesh.experts_group());
//     Tensor copies = comm->start_gather(weights, hot, num_experts)();    // [E_local,F,C] -> [hot,F,C]
//     Tensor mine = comm->sum_of_own(gradients, hot, num_experts);        // of those of them that lie here
#pragma once

#include <memory>

#include "core/communicators.h"

namespace limbeck::parallel {

/// Each expert is whole on one rank of the group, in whose order they are dealt.
std::shared_ptr<nn::ReplicaComm> make_replica_comm(std::shared_ptr<core::Comm> group);

}  // namespace limbeck::parallel
