// A step of a pipeline, by the schedules that runs have (parallel/pipeline/schedule.h).
#pragma once

#include "parallel/pipeline/schedule.h"
#include "tests/scale/simulated_cluster.h"

namespace limbeck::scale {

/// Equal layers, dealt over stages of a node each, whose ranks divide every layer and what is sent.
struct PipelineShape {
  parallel::ScheduleKind kind;
  int chunks = 1;                 // of a stage
  int micro_batches_a_stage = 2;  // a step has as many for each stage: work of a rank stays the same
  int layers = 256;
  double width = 6144;
  double tokens = 4096;  // of a micro-batch

  /// Of the forward pass of a layer: two for each of 12 width^2 parameters and token. Gradients of inputs and of
  /// weights are as many each.
  double layer_flops() const { return 2 * 12 * width * width * tokens; }
  double sent_bytes() const { return 2 * width * tokens; }  // bfloat16, by all ranks of a stage
};

struct PipelineTimes {
  double step = 0;     // seconds
  double planned = 0;  // the same by parallel::simulate, where messages never meet
};

/// Throws a UsageError where layers do not divide over the chunks.
PipelineTimes simulate_pipeline(SimulatedCluster& machines, const PipelineShape& shape, const launch::Cluster& cluster);

}  // namespace limbeck::scale
