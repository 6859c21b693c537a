// What was planned of a run beside what it took, by the names of `limbeck plan`; and what a token of the student costs
// beside one of the teacher.
//
//     const std::optional<Plan> plan = plan_of(run, cluster, log);            // nothing where it is not planned
//     for (const PlannedFigure& figure : planned_figures(run, plan, cluster)) figure.measured;
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launch/console/log.h"
#include "launch/plan/cost.h"
#include "launch/plan/plan_text.h"
#include "launch/report/run_results.h"

namespace limbeck::launch {

/// The plan of a run as it was started last, by the cluster, or by what was measured of its machine where that is this
/// one
/// (`limbeck plan --calibrate`), or without times. Throws where it cannot be planned, or its models are not there any
/// more.
Plan plan_of(const RunResults& run, const std::optional<Cluster>& cluster, const Log& log);

/// A figure; nothing where it is not known.
struct PlannedFigure {
  std::string name;
  std::optional<double> planned, measured;
  std::string (*text)(double);
};

/// Memory of the rank that takes most of each part, in bytes; what a rank sends inside and across nodes by axis, bytes
/// a step; seconds of a step, and of these of exchanges that nothing hides; and of all steps that the run has done
/// time, energy and cost. Of the latter the energy is that of the machines' counters, or by the cluster's power.
std::vector<PlannedFigure> planned_figures(const RunResults& run, const std::optional<Plan>& plan,
                                           const std::optional<Cluster>& cluster);

/// What steps took, in all.
Cost cost_of_run(const RunResults& run, const std::optional<Cluster>& cluster);

/// A model that says the config's prompt, and how near it is to the teacher.
struct ModelCost {
  std::string name;
  std::int64_t active = 0;  // parameters a token
  double tokens_per_s = 0;
  Cost cost;                            // of one token
  std::optional<double> kl, agreement;  // of the student
};
/// The teacher's and the student's; those that are not known are left out.
std::vector<ModelCost> costs_of_models(const RunResults& run, const std::optional<Cluster>& cluster);

/// Both as parts of a page; of a run that is not planned a note says why.
std::string planned_beside_measured(const RunResults& run, const std::optional<Cluster>& cluster, const Log& log);

}  // namespace limbeck::launch
