// What the routers of a model read, in the mean.
//
//     upcycled.centre_routers(mean_router_inputs(student, calibration_batch, *comms.batch));
#pragma once

#include <vector>

#include "core/nn/transformer.h"

namespace limbeck::nn {

/// For each layer of the model the mean [C] of its router's inputs over the tokens of the batches of all ranks of
/// `ranks`; nothing for a dense layer. Throws where there are no tokens.
std::vector<std::vector<double>> mean_router_inputs(const Transformer& model, const Batch& batch, BatchComm& ranks);

}  // namespace limbeck::nn
