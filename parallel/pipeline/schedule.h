// Schedules of a pipeline as data: what each stage does with which micro-batch, in which order.
//
//     const PipelineSchedule schedule = make_schedule(ScheduleKind::Interleaved, stages, chunks, micro_batches);
//     for (const PipelineAction& action : schedule.stages[rank]) run(action);      // receives block, sends do not
//     log(picture(schedule, even_costs(schedule, 1, 1, 1)));
//
// A stage is a rank along pp, and holds one or several chunks of the model. The P v chunks of all, in the model's
// order, are its virtual stages: number c P + p is chunk c of rank p. A forward sends its activations to the next
// virtual stage, and the gradient of a stage's input goes to the one before, so that what is sent goes round the ranks.
// There is one channel for each kind (activations, gradients), sender and receiver, first-in first-out; a rank sends
// itself nothing.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "core/slice.h"

namespace limbeck::parallel {

enum class ActionKind {
  Forward,
  Backward,        // gradients of the input and of the weights
  InputGradient,   // of the input alone, which the stage before waits for
  WeightGradient,  // of the weights alone, at any time behind that
};

struct PipelineAction {
  ActionKind kind = ActionKind::Forward;
  int micro_batch = 0;
  int chunk = 0;
  bool operator==(const PipelineAction&) const = default;
};

/// "F3" as pictures have it: the kind's letter (B of a whole backward and of the input's gradient), the micro-batch
/// and, where there are several chunks, a letter for the chunk: "F3a".
std::string name_of(const PipelineAction& action, int num_chunks);

struct PipelineSchedule {
  int num_chunks = 1;  // v, of each rank
  int num_micro_batches = 0;
  std::vector<std::vector<PipelineAction>> stages;  // by rank along pp, in the order in which it acts

  int num_stages() const { return static_cast<int>(stages.size()); }
  int num_virtual_stages() const { return num_stages() * num_chunks; }
  int virtual_stage(int rank, int chunk) const { return chunk * num_stages() + rank; }
};

enum class ScheduleKind {
  OneFOneB,     // one chunk a rank: Narayanan et al. 2019, PipeDream, arXiv 1806.03377; flushed as in arXiv 2104.04473
  Interleaved,  // v chunks a rank: Narayanan et al. 2021, arXiv 2104.04473, section 2.2, figure 4; of one chunk, 1F1B
  ZeroBubble,   // ZB-H1: Qi et al. 2023, arXiv 2401.10241, section 2; of several chunks, Interleaved with weights apart
};

/// The schedule of `num_micro_batches` through `num_stages` ranks of `num_chunks` chunks each. Of several chunks
/// micro-batches go in rounds of `num_stages`; the last round may be short, which leaves gaps but holds no more. Throws
/// a UsageError where a number is less than 1, or where OneFOneB has several chunks.
PipelineSchedule make_schedule(ScheduleKind kind, int num_stages, int num_chunks, int num_micro_batches);

/// Throws an Error of one line unless every micro-batch has, in every chunk, one Forward and either one Backward or one
/// InputGradient and one WeightGradient; every receiver takes a channel's messages in the order in which they are sent;
/// and the ranks come to their ends where receives block and sends do not. Else it names who waits at which action.
void check_schedule(const PipelineSchedule& schedule);

/// For each rank, the largest number of (micro-batch, chunk) whose activations are held at once: from their Forward to
/// the end of their Backward or, where weights are apart, of their WeightGradient. What the input's gradient alone
/// needs is freed sooner, so that is an upper bound.
std::vector<int> peak_activations(const PipelineSchedule& schedule);

/// What a micro-batch takes in each virtual stage [P v], in any unit of time; not negative.
struct PipelineCosts {
  std::vector<double> forward, input_gradient, weight_gradient;  // a Backward is the last two together
  double communication = 0;  // from the end of an action to where another rank can use what it sent
};

/// The same for each virtual stage of the schedule.
PipelineCosts even_costs(const PipelineSchedule& schedule, double forward, double input_gradient,
                         double weight_gradient);

struct TimedAction {
  PipelineAction action;
  double start = 0;
  double end = 0;
};

struct PipelineTimes {
  std::vector<std::vector<TimedAction>> stages;  // as the schedule's
  double makespan = 0;                           // from 0 to the last end
  std::vector<double> bubble;                    // of each rank, idle / makespan, in [0,1]
};

/// When each action runs, if each does as soon as its rank and what it needs are there. Throws an Error where costs are
/// not one for each virtual stage, and where the ranks wait for each other.
PipelineTimes simulate(const PipelineSchedule& schedule, const PipelineCosts& costs);

/// A line for each rank, time to the right: "F3" with the dashes behind it is as long as the action, a blank is idle.
/// Of what is wider than `width` columns the middle is left out.
std::string picture(const PipelineSchedule& schedule, const PipelineCosts& costs, std::size_t width = 120);

/// The layers of each of `num_parts` virtual stages, contiguous and in order, so that the largest sum of costs is the
/// least that can be and, among such, the sums are the most even (least squares). The first part costs
/// `first_extra` (the embedding) more, the last one `last_extra` (the head). Every part has a layer at least if there
/// are enough. Throws an Error unless costs are finite and not negative and num_parts is 1 or more.
std::vector<core::Slice> split_by_cost(const std::vector<double>& costs, double first_extra, double last_extra,
                                       int num_parts);

}  // namespace limbeck::parallel
