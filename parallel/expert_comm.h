// What a model needs of its peers, over a mesh: experts cut over ep, batch statistics over dp, tensors whole.
//
//     nn::Communicators comms = make_communicators(mesh);
//     auto exchange = comms.expert->prepare(counts, offsets);
//     Tensor rows = comms.expert->dispatch_rows(*exchange, x);
#pragma once

#include "core/nn/communicators.h"
#include "parallel/mesh.h"

namespace limbeck::parallel {

/// Over any group; `prepare` throws a UsageError unless the group's size divides the number of experts. Rows may be of
/// any dtype.
std::shared_ptr<nn::ExpertComm> make_expert_comm(std::shared_ptr<core::Comm> group);

/// All of them, over the mesh's groups. Not collective.
nn::Communicators make_communicators(const Mesh& mesh);

}  // namespace limbeck::parallel
