// What a model needs of its peers, over a mesh: tensors cut over tp, experts over ep and etp, batch statistics over dp.
//
//     nn::Communicators comms = make_communicators(mesh);
//     auto exchange = comms.expert->prepare(selection, num_experts);
//     Tensor tokens = comms.expert->dispatch_rows(exchange, x);
#pragma once

#include "core/communicators.h"
#include "core/pipeline_comm.h"
#include "parallel/axes/mesh.h"

namespace limbeck::parallel {

/// Over any group. Tensors are cut as core/slice.h deals.
std::shared_ptr<nn::TensorComm> make_tensor_comm(std::shared_ptr<core::Comm> group);

/// The stages, over the mesh's groups. Not collective.
std::shared_ptr<nn::PipelineComm> make_pipeline_comm(const Mesh& mesh);

/// All the others, likewise.
nn::Communicators make_communicators(const Mesh& mesh);

}  // namespace limbeck::parallel
