// What a layer of a model takes of a token in a pass, forward and back, before the model is there: FLOP of products by
// the architecture's numbers, and bytes of tensors by the layer's own code, run in a memory of sizes
// (core/device/memory.h).
//
//     const std::vector<LayerWork> layers = work_of_layers(config, architecture);
//     layers[3].given.forward;        // bytes
#pragma once

#include <vector>

#include "core/nn/model_config.h"
#include "launch/config/config.h"

namespace limbeck::launch {

/// The parts of a pass that a schedule tells apart (core::Tape::WeightParts::Queued).
struct PassParts {
  double forward = 0;
  double input_gradient = 0;  // with what is computed again of the forward, with train.recompute
  double weight_gradient = 0;
};

/// Of one rank that has all of the layer, a token. Of experts those that the token goes to compute.
struct LayerWork {
  double weight_flops = 0;  // of products with weights, forward: 2 for each active one
  double other_flops = 0;   // of attention's scores and what they weigh, or of states; forward
  double values = 0;        // of the layer's weights that are read, all experts' too; of no token
  double used_values = 0;   // of those that a token uses
  PassParts given = {};     // bytes of the tensors that are made
};

/// A model of so many layers, each as `model`'s of this number, which may be that of one that predicts.
nn::ModelConfig layers_alike(nn::ModelConfig model, std::int64_t layer, std::int64_t count);

/// In the model's order, and behind them what each layer that predicts further tokens is as.
std::vector<LayerWork> work_of_layers(const RunConfig& config, const nn::ModelConfig& model);

}  // namespace limbeck::launch
