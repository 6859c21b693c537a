// One micro-batch through one chunk of the student's layers: forward and, when that is due, backward. Behind the last
// chunk the teacher has run too, and the loss is taken.
//
//     StepSums sums(rank, student);
//     MicroPass pass({rank, models, input, options, sums, weight_parts}, micro_batch, chunk, ledger);
//     const Tensor behind = pass.forward(before);              // the streams; undefined where there is none
//     const Tensor gradient = pass.backward(gradient_behind);
//     pass.run_weight_parts();
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/ops/router.h"
#include "kernels/distillation.h"
#include "kernels/preference.h"
#include "kernels/sorted_rows.h"
#include "kernels/spans.h"
#include "launch/run/step.h"
#include "launch/run/taught.h"

namespace limbeck::launch {

/// What the passes of a step add up.
struct StepSums {
  StepSums(const Rank& rank, const nn::Transformer& student);

  std::vector<core::LossAccumulator> losses;  // of the model, and of each depth behind it
  core::Tensor all;                           // [.] float64, by the places below
  core::Tensor preferences, spans, pairs;     // as their kernels have the columns
  LoadCounter load;

  // Of all, behind the sums of the model's losses, and in front of those of the layers that predict, depth by depth.
  static constexpr std::int64_t balance = kernels::num_loss_totals, z = balance + 1, balance_square = z + 1,
                                z_square = balance_square + 1, hidden = z_square + 1, hidden_square = hidden + 1,
                                routing = hidden_square + 1, routing_square = routing + 1, updates = routing_square + 1,
                                update_squares = updates + std::int64_t{nn::num_blocks},
                                of_preferences = update_squares + std::int64_t{nn::num_blocks},
                                of_spans = of_preferences + kernels::num_preference_columns,
                                of_pairs = of_spans + kernels::num_span_columns,
                                of_predictions = of_pairs + kernels::num_sorted_columns;

  /// Collective: `all` becomes the sum over all ranks that have other data or other layers, with everything in it.
  void gather(const Rank& rank);
};

class MicroPass {
 public:
  MicroPass(const StepContext& step, std::int64_t micro_batch, std::int64_t chunk, core::GradientLedger& ledger);
  MicroPass(const MicroPass&) = delete;
  MicroPass& operator=(const MicroPass&) = delete;

  bool is_first() const;  // chunk of all: it takes no stream
  bool is_last() const;   // and it gives none
  core::Tensor empty_stream() const { return step_.models.student.empty_stream(pass_); }

  /// What the teacher says of the micro-batch, of the layers of this chunk at least; unsaid, the last chunk's pass asks
  /// itself, and no layer of another is held to a teacher's.
  void set_taught(Taught taught) { taught_ = std::move(taught); }
  core::Tensor forward(const core::Tensor& stream);
  /// Of the gradient of what forward gave that of what it took.
  core::Tensor backward(const core::Tensor& gradient);
  void run_weight_parts() {
    while (run_next_weight_part()) {
    }
  }
  bool run_next_weight_part();

 private:
  const nn::Batch& batch() const { return step_.input.batches[micro_]; }
  Bridge bridge() const { return step_.models.bridge != nullptr ? step_.options.bridge : Bridge::None; }
  std::unique_ptr<core::TargetSource> read_whole(std::int64_t further) const;
  void run_bridge();
  /// What the student's layers are held to, of a teacher that has run.
  void watch_matches();
  /// Of a depth's tokens, so many further on than the model's, which is 0.
  std::unique_ptr<core::TargetSource> targets_of(const core::Tensor& targets, std::int64_t further,
                                                 const core::HeadOptions& head);
  core::Var loss_of(const core::Var& hidden, const core::Tensor& targets, std::int64_t further, double weight);
  core::Var loss_of_head(const core::Var& hidden);
  void add_predictions(const core::Var& stream);
  void add_layers(const nn::AuxiliaryLosses& terms);

  StepContext step_;
  std::size_t micro_;
  std::int64_t chunk_;
  core::Tape tape_;
  nn::RoutingLog own_routing_;  // a recomputed layer replays its own choices
  nn::Pass pass_;
  std::unique_ptr<core::TargetSource> cached_rows_;  // on their way while the student runs
  std::optional<Taught> taught_;
  core::Tensor bridged_losses_;  // of the teacher's own tokens
  std::unique_ptr<core::TargetSource> paired_;
  core::Var distance_;  // of the student's hidden states from the teacher's
  core::Var in_, out_, total_;
};

}  // namespace limbeck::launch
