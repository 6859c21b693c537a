// One optimizer step's forward and backward passes over a rank's share of the step's sequences, under any layout.
//
//     GradientSync sync(student.parameters(), rank.mesh(), rank.memory(), core::DType::F32, bucket_bytes);
//     StepResult result = forward_backward(rank, {student, &teacher, objective}, samples, options, sync);
//     // every parameter's slot now holds the gradient of the whole step, reduced
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/nn/transformer.h"
#include "core/ops/head_loss.h"
#include "launch/run/batch.h"
#include "launch/run/expert_load.h"
#include "launch/run/rank.h"
#include "parallel/axes/gradient_sync.h"

namespace limbeck::launch {

struct StepModels {
  nn::Transformer& student;
  const nn::Transformer* teacher;  // null: no distillation
  const core::Objective& objective;
};

struct StepOptions {
  std::int64_t micro_batches = 1;
  nn::RouterTraining router = {};
  bool recompute = false;
  bool delay_weight_parts = false;  // as they are between GPUs that exchange rows of experts
  std::int64_t valid_vocabulary = -1;  // tokens from here on are padding in both heads; -1: none is
  nn::RoutingLog* routing = nullptr;   // choices to replay; recorded into where it lacks them
};

/// Sums and means over all ranks and micro-batches.
struct StepResult {
  core::LossStatistics head;  // sums over valid targets
  double objective = 0;       // the objective's mean over valid targets
  double balance = 0;         // router losses, weighted
  double z = 0;
  std::vector<std::vector<double>> expert_load;  // [MoE layer][expert]: assignments, without the dropped ones
  double text_seconds = 0;                       // that this rank read its samples
  double loss() const { return objective + balance + z; }
};

/// A step whose passes are queued, with its figures on their way to the host.
class StepUnderWay {
 public:
  StepResult read();  // waits

 private:
  friend StepUnderWay start_step(Rank&, const StepModels&, const StepText&, const StepOptions&,
                                 parallel::GradientSync&);
  StepUnderWay(const core::Tensor& sums, LoadCounter::Sums load, double text_seconds)
      : sums_(sums), load_(std::move(load)), text_seconds_(text_seconds) {}

  core::HostCopy sums_;
  LoadCounter::Sums load_;
  double text_seconds_;
};

/// Collective. `samples` are the step's, the same on every rank; rank and micro-batch fetch theirs by index, some may
/// have none. Throws where the step has no valid target.
StepUnderWay start_step(Rank& rank, const StepModels& models, const StepText& samples, const StepOptions& options,
                        parallel::GradientSync& sync);
/// The same, waited for.
StepResult forward_backward(Rank& rank, const StepModels& models, const StepText& samples, const StepOptions& options,
                            parallel::GradientSync& sync);

}  // namespace limbeck::launch
