#include "tests/scale/pipeline_step.h"

#include <array>

#include "core/error.h"

namespace limbeck::scale {

using parallel::ActionKind;
using parallel::PipelineAction;
using parallel::PipelineSchedule;

namespace {

/// What a rank does and sends in an action.
struct Work {
  double flops_a_pass;  // forward, or gradients of inputs, or of weights
  double sent_bytes;

  double flops(ActionKind kind) const { return kind == ActionKind::Backward ? 2 * flops_a_pass : flops_a_pass; }
};

/// A rank that takes its stage's actions in their order, as launch/run/step.cpp does: receives block, sends do not.
class StageRank {
 public:
  StageRank(const PipelineSchedule& schedule, const std::array<Channel, 2>& channels, const Work& work, int rank,
            int ranks_a_stage)
      : schedule_(schedule), channels_(channels), work_(work), rank_(rank), ranks_a_stage_(ranks_a_stage) {}

  void run() const {
    for (const PipelineAction& action : schedule_.stages[stage()]) act(action);
  }

 private:
  int stage() const { return rank_ / ranks_a_stage_; }

  void act(const PipelineAction& action) const {
    const bool is_gradient = action.kind != ActionKind::Forward;
    const int virtual_stage = schedule_.virtual_stage(stage(), action.chunk), step = is_gradient ? -1 : 1;
    const Channel& channel = channels_[is_gradient ? 1 : 0];
    const bool travels = action.kind != ActionKind::WeightGradient;
    if (travels && lies_elsewhere(virtual_stage - step)) channel.receive(rank_);
    compute(work_.flops(action.kind));
    if (travels && lies_elsewhere(virtual_stage + step)) channel.post(rank_in(virtual_stage + step), work_.sent_bytes);
  }
  bool lies_elsewhere(int virtual_stage) const {
    return virtual_stage >= 0 && virtual_stage < schedule_.num_virtual_stages() && rank_in(virtual_stage) != rank_;
  }
  /// The rank of the same place in that stage.
  int rank_in(int virtual_stage) const {
    return virtual_stage % schedule_.num_stages() * ranks_a_stage_ + rank_ % ranks_a_stage_;
  }

  const PipelineSchedule& schedule_;
  const std::array<Channel, 2>& channels_;  // of activations and of gradients
  Work work_;
  int rank_, ranks_a_stage_;
};

}  // namespace

PipelineTimes simulate_pipeline(SimulatedCluster& machines, const PipelineShape& shape,
                                const launch::Cluster& cluster) {
  const int stages = machines.num_nodes(), ranks_a_stage = machines.ranks_a_node();
  if (shape.layers % (stages * shape.chunks) != 0)
    core::fail_usage("{} layers in {} stages of {} chunks, expected a multiple", shape.layers, stages, shape.chunks);
  const PipelineSchedule schedule =
      parallel::make_schedule(shape.kind, stages, shape.chunks, shape.micro_batches_a_stage * stages);
  parallel::check_schedule(schedule);
  const double layers = shape.layers / (stages * shape.chunks);
  const Work work{.flops_a_pass = layers * shape.layer_flops() / ranks_a_stage,
                  .sent_bytes = shape.sent_bytes() / ranks_a_stage};

  const std::array channels{Channel("activations", machines), Channel("gradients", machines)};
  for (int rank = 0; rank < machines.num_ranks(); ++rank)
    machines.start(rank, {&channels[0], &channels[1]},
                   [actor = StageRank(schedule, channels, work, rank, ranks_a_stage)] { actor.run(); });
  const double seconds = work.flops_a_pass / cluster.flops(core::DType::BF16);
  parallel::PipelineCosts costs = parallel::even_costs(schedule, seconds, seconds, seconds);
  costs.communication = cluster.between.latency_us * 1e-6 + work.sent_bytes / (cluster.between.gb_s * 1e9);
  return {.step = machines.run(), .planned = parallel::simulate(schedule, costs).makespan};
}

}  // namespace limbeck::scale
