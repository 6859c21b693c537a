// Which rank holds which of a layer's experts, dealt anew between steps by what they took. Whatever names an expert
// says its index in the model: where it lies is known here, and to Moe::places, alone.
//
//     ExpertPlacement placement(rank, student, fragments, optimizer, values);
//     placement.count(result.expert_load);                   // behind each step
//     placement.deal();                                      // now and then
//     placement.in_model_order([&] { save(steps.state()); });
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/nn/transformer.h"
#include "launch/run/rank.h"
#include "optim/fragment.h"
#include "optim/optimizer.h"
#include "parallel/axes/expert_moves.h"
#include "parallel/axes/shared_values.h"

namespace limbeck::launch {

/// The experts of a layer in the order of the ranks that hold them, on each as many as its slice of them has
/// (core/slice.h), which may be none; empty: the model's order.
using ExpertOrder = std::vector<std::int64_t>;

/// What the rank takes that takes most, where each expert takes so much.
double fullest_rank(std::span<const double> load, const ExpertOrder& order, std::int64_t num_ranks);

/// The longest first, each to the rank that has least of those with room (Graham 1969, "Bounds on multiprocessing
/// timing anomalies"), of equals to its own; what stays on a rank keeps its place.
ExpertOrder dealt_by_load(std::span<const double> load, const ExpertOrder& order, std::int64_t num_ranks);

/// Whether a run deals experts anew: where it is to, the student has some, and several ranks hold them.
bool deals_experts(const ParallelConfig& config, const nn::ModelConfig& student, const parallel::Mesh& mesh);

/// Throws a UsageError where what is kept of experts in 8 bits is dealt within one, on whichever rank: no other cut has
/// its blocks.
void check_experts_may_move(const nn::ModelConfig& student, const parallel::Mesh& mesh,
                            const optim::Optimizer& optimizer);

class ExpertPlacement {
 public:
  /// Of each layer with experts of the whole model, those that predict last.
  using Orders = std::vector<ExpertOrder>;
  using Counts = std::vector<std::vector<double>>;

  /// A layer is dealt anew where that takes so much of its fullest rank's load.
  static constexpr double least_gain = 0.02;

  /// Collective. All outlive it; `fragments` are the optimizer's. Throws as check_experts_may_move does.
  ExpertPlacement(const Rank& rank, nn::Transformer& student, const std::vector<optim::Fragment>& fragments,
                  const optim::Optimizer& optimizer, parallel::SharedValues& values);

  /// Adds what each expert took of a step, as StepResult has it.
  void count(const Counts& load);
  /// Of each layer the fullest rank's share of what was taken; 0 where nothing was.
  std::vector<double> fullest(const Counts& load) const;
  /// Collective, between steps: deals by what was counted since the last time, and begins to count anew. How many
  /// experts have moved.
  std::int64_t deal();

  const Orders& orders() const { return orders_; }
  const Counts& counts() const { return counts_; }
  /// Collective: goes on with those of a checkpoint, whatever ranks it was saved by. Throws, naming `where`, where they
  /// are not of this model.
  void go_on_with(const Orders& orders, const Counts& counts, const std::string& where);

  /// Collective: all experts lie in the model's order, until the next deal().
  void go_home() { move_to({}, Also::Nothing); }
  /// Collective: f runs while they do. `gradients_too`: those of a step's backward move as well.
  void in_model_order(const std::function<void()>& f, bool gradients_too = false);

 private:
  enum class Also : bool { Nothing, Gradients };
  /// Of the whole model's layers with experts.
  std::size_t num_rows() const;
  /// The order of a layer's row, said in full.
  ExpertOrder order_of(const Orders& orders, std::size_t row) const;
  void move_to(const Orders& orders, Also also);

  nn::Transformer& student_;
  const std::vector<optim::Fragment>& fragments_;
  const optim::Optimizer& optimizer_;
  parallel::SharedValues& values_;
  std::int64_t num_ranks_;  // ep
  parallel::ExpertMoves moves_;
  Orders orders_;
  Counts counts_;  // since they were dealt
};

}  // namespace limbeck::launch
