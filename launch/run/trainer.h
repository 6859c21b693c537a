// The loop of `train` and `distill`: steps, metrics, checkpoints, evaluations.
//
//     Trainer trainer(session, run_directory, log, evaluations);
//     if (!options.resume || !trainer.resume()) trainer.begin();
//     bool finished = trainer.run(last_step);       // false: a signal asked to stop; the state is saved
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/console/log.h"
#include "launch/console/progress.h"
#include "launch/report/communication.h"
#include "launch/run/best_evaluation.h"
#include "launch/run/checkpointing.h"
#include "launch/run/metrics.h"
#include "launch/run/run_directory.h"
#include "launch/run/run_evaluations.h"
#include "launch/run/run_steps.h"
#include "launch/run/saves.h"
#include "launch/run/session.h"
#include "launch/run/step_footprint.h"
#include "launch/run/throughput.h"

namespace limbeck::launch {

class Trainer {
 public:
  /// Collective.
  Trainer(Session& session, RunDirectory& directory, Log log, RunEvaluations& evaluations);

  /// Collective: behind the start of the student's weights, where nothing is continued.
  void begin() { steps_.begin(); }
  /// Collective: continues from the newest good checkpoint of the run directory; false where there is none.
  bool resume();
  /// Collective: steps until `last_step` has been done, or train.keep_best's figure has not got better for so long as
  /// the config says, and saves. False: a signal asked to stop; the state is saved.
  bool run(std::int64_t last_step);
  /// The gradients of the last step go to this file as well.
  void dump_gradients_to(std::filesystem::path file) { dump_ = std::move(file); }
  /// Each step is watched: where one is not finite, the error names the operation.
  void watch_steps() { watch_.emplace(); }

  std::int64_t steps_done() const { return steps_.steps_done(); }
  /// Values of the parameters that are trained, of all ranks.
  std::int64_t num_trained() const { return steps_.num_trained(); }
  Throughput throughput() const;
  /// By what the energy of steps is known on this machine; empty where it is not.
  std::string energy_by() const { return footprint_.energy_by(); }
  /// Of the steps of this process, a step; empty where there is one rank.
  std::vector<AxisCommunication> communication() const;
  /// Collective: everything that is evaluated, of the student as it is now; what was measured after the last step is
  /// not measured again.
  Measurement measure_all() const;
  /// The best evaluation by train.keep_best, if there was one.
  const std::optional<BestEvaluation>& best() const { return best_; }
  /// Whether the run is over because that has not got better for so long.
  bool is_without_gain() const;
  /// The one written last, or continued from.
  const std::filesystem::path& last_checkpoint() const { return last_checkpoint_; }

 private:
  StepReport step(bool dump);
  nlohmann::ordered_json to_json(const StepReport& report) const;
  std::vector<Figure> to_figures(const StepReport& report) const;
  /// The steps that a log tells more of: the first, and every train.log_every_steps.
  bool is_detailed(std::int64_t step) const;
  /// For --verbose.
  void log_details(const StepReport& report) const;
  /// Collective: the evaluation that is due after this step goes into the line; true where it is the best until now.
  bool evaluate(nlohmann::ordered_json& line);
  void point_to_best();
  void take_best(const TrainerState& where, const std::string& folder);
  /// Collective: behind a step that was refused, to the newest good checkpoint, with the text behind it.
  void go_back(const StepReport& report);
  /// Collective: a step beside which one before may be being saved.
  StepReport step_beside(Saves& saves, bool dump);
  /// Collective: finishes the save before, and begins the one of this step.
  void save(Saves& saves, bool beside_steps);
  void note_finished(Saves& saves);
  /// Collective: of the state of a first save that others follow, and of all later ones.
  bool may_copy(const core::StateDict& state);

  Session& session_;
  RunDirectory& directory_;
  Log log_;
  RunEvaluations& evaluations_;
  RunSteps steps_;
  std::optional<std::filesystem::path> dump_;
  std::optional<core::FiniteWatch> watch_;
  std::filesystem::path last_checkpoint_;
  std::optional<bool> may_copy_;
  std::optional<double> save_seconds_;          // of that one, until it is in the metrics
  std::vector<std::filesystem::path> damaged_;  // found on resuming; the next save removes them
  double flops_per_token_ = 0;
  double peak_flops_ = 0;                // of all ranks
  std::optional<Measurement> measured_;  // after this step, if all was due
  std::optional<BestEvaluation> best_;
  std::optional<double> choice_kl_;  // TrainerState's
  std::int64_t tokens_seen_ = 0;
  bool has_warned_ = false;        // of experts that starve: once while it trains
  double seconds_before_ = 0;      // of training, before this process: known to the first rank
  std::int64_t timed_tokens_ = 0;  // of this process
  double timed_seconds_ = 0;
  std::int64_t timed_steps_ = 0;
  parallel::Traffic traffic_;
  StepFootprint footprint_;
};

}  // namespace limbeck::launch
