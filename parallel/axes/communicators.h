// What a model needs of its peers, over a mesh: tensors cut over tp, experts over ep and etp, batch statistics over dp.
//
//     nn::Communicators comms = make_communicators(mesh);
//     auto exchange = comms.expert->prepare(counts, offsets);
//     Tensor rows = comms.expert->dispatch_rows(exchange, x);
#pragma once

#include "core/communicators.h"
#include "parallel/axes/mesh.h"

namespace limbeck::parallel {

/// Over any group. Tensors are cut as core/slice.h deals.
std::shared_ptr<nn::TensorComm> make_tensor_comm(std::shared_ptr<core::Comm> group);

/// All of them, over the mesh's groups. Not collective.
nn::Communicators make_communicators(const Mesh& mesh);

}  // namespace limbeck::parallel
