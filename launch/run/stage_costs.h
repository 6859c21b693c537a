// What a micro-batch takes in each stage of a pipeline, forward and for its gradients of inputs and of weights: by
// which schedules leave weights for later, and by which it is counted how long stages wait.
//
//     pipeline.costs = costs_of_stages(config, model, pipeline.layers, {.readers = 4, .on_gpu = true});
#pragma once

#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "core/nn/model_config.h"
#include "core/slice.h"
#include "launch/config/config.h"
#include "launch/run/layer_work.h"
#include "parallel/pipeline/schedule.h"

namespace limbeck::launch {

/// What passes are, beside config and model.
struct StagePasses {
  double beside_head = 0;    // forward FLOP of a token, of what runs where the head is, has no backward and is no part
                             // of the model, such as a teacher
  std::int64_t readers = 1;  // ranks of a stage that have tokens of their own (dp, cp)
  bool on_gpu = false;
};

/// FLOP of products that take as long as a byte that other kernels read or write. Usual numbers, of no machine in
/// particular, so that a run has one schedule on all CPUs, or GPUs, over as many ranks: of CPUs what was measured of two
/// (docs/plan.md), of GPUs those of examples/clusters/h100_node.textproto.
double flops_a_byte(core::DType compute, bool on_gpu);

/// Of one layer, a token, in FLOP of products that take as long (`a_byte`: flops_a_byte): products as they are,
/// attention's own two and a half times in the backward, where scores are made again; each tensor is written and read,
/// and those of the forward read again for the gradient of the input, as they are all made again with train.recompute;
/// gradients of weights, which nothing has with adapters, are added to what other micro-batches gave, of `tokens` each.
PassParts costs_of_layer(const LayerWork& work, const RunConfig& config, double tokens, double a_byte);

/// The same of each virtual stage, which have the layers `parts`. The head does all it does in the forward, its
/// gradients too (core/ops/head_loss.h), and with it what is beside it, by what layers' forward costs for its FLOP; the
/// embedding reads rows and adds to them.
parallel::PipelineCosts costs_of_stages(const RunConfig& config, const nn::ModelConfig& model,
                                        const std::vector<core::Slice>& parts, const StagePasses& passes);

}  // namespace limbeck::launch
