// A whole optimizer step: passes, the gradients' norm, the update; all of it is queued before anything is read, unless
// somebody is to say by the step's figures whether it is taken. On a
// GPU it can be recorded: from the third step on it is then queued by one call (core/device/recorded_work.h), with the
// bits of one whose kernels are queued one by one and know as little of documents (nn::Batch::forget_values).
//
//     TrainingStep step(rank, {student, &teacher, objective}, sync, optimizer, values, trained, {.clip_norm = 1});
//     const TrainingStep::Done done = step.run(text, options, schedule.rate(optimizer.num_steps() + 1));
//     done.check(optimizer.num_steps());
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/device/recorded_work.h"
#include "launch/run/step.h"
#include "launch/run/step_failed.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "parallel/axes/shared_values.h"

namespace limbeck::launch {

/// Where a step's seconds went. Of a GPU's work, only until it was queued.
struct StepTimes {
  double text = 0;       // reading the samples
  double passes = 0;     // forward, backward, the teacher's, the gradients' reductions; of a recorded step, all of it
  double norm = 0;       // the global gradient norm
  double optimizer = 0;  // the update, the gathering of what is shared, and the wait for all that was queued
};

/// Whether the config asks for it, and the rank is on a GPU. Throws where several ranks are asked.
bool records_steps(const RunConfig& config, const Rank& rank);

class TrainingStep {
 public:
  struct Options {
    double clip_norm = 0;                 // of GradientNorm
    bool records = false;                 // for one rank on a GPU; without jitter, which is drawn anew in each step
    std::vector<std::string> names = {};  // of GradientNorm: of all that is trained, where stages hold different layers
    /// By a step's loss and gradient norm, which all ranks know alike: why its update is left out; empty: it is made.
    /// Not for steps that are recorded.
    std::function<std::string(double loss, double norm)> refuses = {};
  };
  /// `trained` is what this rank steps on. All that is referred to must outlive it.
  TrainingStep(Rank& rank, const StepModels& models, parallel::GradientSync& sync, optim::Optimizer& optimizer,
               parallel::SharedValues& values, std::vector<optim::Fragment> trained, const Options& options);

  struct Done {
    StepResult result;
    optim::GradientNorm::Values norm;
    StepTimes times;
    std::string refused = {};  // what Options::refuses said: weights and moments are as they were

    /// Throws StepFailed, naming the step and what it is of, where a loss or a gradient is; nothing was changed then.
    void check(std::int64_t step) const;
  };
  /// Collective. A recorded step takes the options that it was recorded with. Gradients stay until the next.
  Done run(const StepText& samples, const StepOptions& options, double rate);

  /// The next step is queued as usual, and recorded anew later; what was set apart for it is for all.
  void forget_recording() { recorded_.reset(); }

 private:
  void queue(const StepInput& input, const StepOptions& options);
  void queue_update();
  void run_recorded(StepInput input, const StepOptions& options);
  CachedTeacher::Figures cache_figures();
  double teacher_wait();

  Rank& rank_;
  StepModels models_;
  parallel::GradientSync& sync_;
  optim::Optimizer& optimizer_;
  parallel::SharedValues& values_;
  std::vector<optim::Fragment> trained_;
  Options options_;
  std::int64_t num_queued_ = 0;
  StepTimes times_;

  // Of the step under way, or recorded.
  std::optional<QueuedPasses> passes_;
  std::optional<optim::GradientNorm> norm_;
  StepInput recorded_input_;
  std::optional<core::RecordedWork> recorded_;
};

}  // namespace limbeck::launch
