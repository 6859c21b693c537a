// The sum of gradients over all ranks, in buckets that are reduced while the backward pass goes on.
#pragma once

#include "tests/scale/simulated_cluster.h"

namespace limbeck::scale {

enum class Reduction {
  Ring,    // one ring over all ranks, node by node: Patarasuk and Yuan 2009
  Levels,  // a reduce-scatter within the node, rings of a device of each node, an all-gather within the node
};

struct GradientShape {
  int buckets = 2;
  double bucket_bytes = 256 << 20;  // of float32
  double tokens = 8192;             // of a rank's backward pass

  double parameters_a_bucket() const { return bucket_bytes / 4; }
  /// Gradients of inputs and of weights, two operations for each parameter and token.
  double backward_flops_a_bucket() const { return 4 * parameters_a_bucket() * tokens; }
};

struct ReductionTime {
  double backward = 0;  // seconds of the pass itself
  double step = 0;      // until the last bucket has been summed
};

ReductionTime simulate_reduction(SimulatedCluster& machines, Reduction reduction, const GradientShape& shape);

}  // namespace limbeck::scale
