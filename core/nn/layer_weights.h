// Whoever has a model's layers whole only while they run.
//
//     model.set_layer_weights(&weights);      // from here on told of each layer's runs, forward and backward
#pragma once

#include <cstdint>

#include "core/tape.h"

namespace limbeck::nn {

class LayerWeights {
 public:
  virtual ~LayerWeights() = default;
  /// Before a layer, by its number in the whole model, runs forward. What is pushed here runs behind its backward.
  virtual void before(core::Tape& tape, std::int64_t layer) = 0;
  /// Behind it. What is pushed here runs before its backward, in which a recomputed layer runs forward once more.
  virtual void behind(core::Tape& tape, std::int64_t layer) = 0;
  /// Behind the filling of one of the model's parameters, before the next one's.
  virtual void filled(core::Parameter&) {}
};

}  // namespace limbeck::nn
