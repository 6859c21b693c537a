// The optimizer steps of a run, as its config says them: objective, what is trained, gradient buckets, optimizer,
// schedule. What a run keeps of them is the trainer's (trainer.h); verification.h takes the same steps under other
// layouts.
//
//     RunSteps steps(session, log);
//     session.start_student();
//     steps.find_matches(session.start.layers);
//     steps.begin();
//     while (steps.steps_done() < last) use(steps.step());
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launch/console/log.h"
#include "launch/run/expert_placement.h"
#include "launch/run/hidden_projectors.h"
#include "launch/run/memory_parts.h"
#include "launch/run/run_objective.h"
#include "launch/run/sampled_text.h"
#include "launch/run/session.h"
#include "launch/run/spike_guard.h"
#include "launch/run/training_step.h"
#include "optim/groups.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "parallel/axes/gradient_sync.h"
#include "parallel/axes/shared_values.h"
#include "parallel/comm/traffic.h"

namespace limbeck::launch {

struct StepReport {
  StepResult result;
  StepTimes times;
  std::int64_t step = 0;
  std::int64_t num_tokens = 0;
  std::int64_t tokens_seen = 0;
  double rate = 0;
  double gradient_norm = 0;                 // before clipping
  std::string refused = {};                 // why the step's update was left out (GuardConfig); empty: it was made
  std::optional<SampledText> sampled = {};  // what a model said in place of the text
  double sample_seconds = 0;
  std::vector<double> fullest_ranks = {};          // ExpertPlacement::fullest of its load, as the experts lay then
  std::optional<std::int64_t> moved_experts = {};  // behind it, where they were to be dealt anew
  double move_seconds = 0;
  double seconds = 0;
  parallel::Traffic traffic = {};  // of this rank, until it is agreed on with the others
  double tokens_per_s = 0;
  double mfu = 0;
};

/// Where the steps of a run are.
struct StepsPosition {
  std::int64_t step = 0;         // steps done
  std::int64_t passed_over = 0;  // steps whose text no step that counts has read: behind one that was rolled back
  std::optional<GuardState> guard = {};
  SaidAhead said = {};  // for steps that are to come
};

class RunSteps {
 public:
  /// Collective. The student needs no weights yet.
  RunSteps(Session& session, const Log& log);

  /// What the student is held to beside the teacher's distributions; `kept` as hidden_match has it.
  void find_matches(std::span<const std::int64_t> kept);
  /// Collective: behind the start of the student's weights, where nothing is continued.
  void begin();

  /// Collective: the next step. `dump`: its gradients go to this file as well. What is of all steps, or of the machine,
  /// is not in the report.
  StepReport step(const std::optional<std::filesystem::path>& dump = std::nullopt, const StepWatch& watch = {});

  /// Of a recorded step, as TrainingStep has it.
  void forget_recording() { training_step_.forget_recording(); }

  /// What a checkpoint holds; valid while this is, and no expert moves.
  core::StateDict state();
  /// Collective: goes on from the state there, the student's weights apart, which have been read. `where` is the
  /// checkpoint, `changed` the sections of the config that its run had otherwise. Throws where the optimizer cannot
  /// take its state.
  void load(const core::StateReader& reader, const StepsPosition& position, const std::string& where,
            const std::vector<std::string>& changed);
  /// Collective, in the midst of a run with a guard: goes on from a checkpoint of this run, whose state is read again,
  /// weights and all, with the text behind the last step.
  void go_back(const core::StateReader& reader, const StepsPosition& position, const std::string& where);

  std::int64_t steps_done() const { return steps_done_; }
  StepsPosition position() const;
  /// All that there is to train, frozen or not: the student's, and those beside it.
  core::ParameterList all_parameters();
  /// Values of all parameters that are trained, of all ranks.
  std::int64_t num_trained() const { return num_trained_; }
  /// What this rank has of the weights, of all that there is to train, and of the gradients; its shares, where they are
  /// dealt. The tensors are those that are trained on, not copies.
  core::StateDict weights();
  core::StateDict gradients() const;
  /// What this rank has of a parameter's values at any time: its share, where they are dealt.
  core::Tensor values_here(const core::Parameter& parameter) const;
  /// Parameters, teacher, gradients and optimizer of this rank: what a step finds of them in the memory.
  MemoryParts memory();
  const std::optional<HiddenMatch>& hidden() const { return hidden_; }
  const UpdateMatches& updates() const { return updates_; }
  const std::optional<RouterMatch>& routers() const { return routers_; }
  /// Experts that the next step copies to all ranks among which they are dealt, by layer (parallel.expert_replicas).
  const std::vector<std::vector<std::int64_t>>& replicated() const { return replicated_; }
  void set_replicated(std::vector<std::vector<std::int64_t>> experts);
  /// Where experts lie, if they are dealt anew (parallel.deal_experts_every_steps): where there are some, and several
  /// ranks for them.
  std::optional<ExpertPlacement>& placement() { return placement_; }
  /// Collective: f runs while experts lie in the model's order, as state(), weights() and, with `gradients_too`,
  /// gradients() say that they do.
  void in_model_order(const std::function<void()>& f, bool gradients_too = false);

 private:
  void prefetch(const StepText& samples);
  void choose_replicas(const StepResult& result);
  /// Collective.
  void place_experts(StepReport& report);
  /// The step whose text is `further` behind the next.
  StepText text_of_next(std::int64_t further = 0) const;
  /// Collective: what a watch has seen first, of all ranks.
  std::string seen_first(const core::FiniteWatch& watch) const;
  /// Collective: throws where a step is not finite, with that.
  void check(const TrainingStep::Done& done, std::int64_t step, const core::FiniteWatch* watch) const;
  /// Bytes that have gone to tensors of the memory since it was last looked at.
  std::int64_t taken();

  Session& session_;
  RunObjective objective_;
  HiddenProjectors projectors_;
  std::vector<optim::Trained> trained_;
  core::ParameterList parameters_;  // those that are trained
  std::int64_t num_trained_;
  std::int64_t used_bytes_;  // of the memory, when it was last looked at
  parallel::GradientSync sync_;
  std::int64_t gradient_bytes_;
  parallel::SharedValues values_;
  std::vector<optim::Fragment> fragments_;  // what this rank steps on, of each
  std::int64_t share_bytes_;                // of values that are dealt
  optim::Optimizer optimizer_;
  std::int64_t optimizer_bytes_;
  std::optional<ExpertPlacement> placement_;
  optim::Schedule schedule_;
  std::optional<SpikeGuard> guard_;
  TrainingStep training_step_;
  SampledTexts sampled_;
  std::optional<HiddenMatch> hidden_;
  UpdateMatches updates_;
  std::optional<RouterMatch> routers_;
  std::vector<std::vector<std::int64_t>> replicated_;
  std::int64_t steps_done_ = 0;
  std::int64_t passed_over_ = 0;  // as StepsPosition has it
};

/// Whether the student learns from what a teacher says of each of its tokens.
bool compares_tokens(const Session& session);

}  // namespace limbeck::launch
