// How much each layer of a model does to the hidden state that passes through it.
//
//     std::vector<double> influence = block_influence(teacher, calibration_batch, *comms.batch);
#pragma once

#include <vector>

#include "core/nn/transformer.h"

namespace limbeck::nn {

/// ShortGPT's block influence (arXiv 2403.03853, section 3): 1 - cos(x_in, x_out), the hidden states before and after
/// the layer, mean over the tokens of the batches of all ranks of `ranks`. One value a layer of the model.
std::vector<double> block_influence(const Transformer& model, const Batch& batch, BatchComm& ranks);

}  // namespace limbeck::nn
