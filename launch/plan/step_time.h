// How long a rank's step takes on a cluster, and what the run costs, by the roofline: products at the rate of the
// device, what is read and written at that of its memory, exchanges at that of their links, each bytes and operations
// of plan_rank.
//
//     const StepTime time = step_time(config, models, plan, world, cluster);
//     time.seconds();
#pragma once

#include <algorithm>
#include <vector>

#include "launch/plan/cluster.h"
#include "launch/plan/imagined_run.h"

namespace limbeck::launch {

/// One exchange of a rank's step (parallel::ExchangeCount) on its link.
struct ExchangeTime {
  double seconds = 0;
  bool between_nodes = false;
  bool is_hidden = false;  // runs beside the computation
};

/// What a teacher in a layout of its own takes of a step (RankPlan::teacher_apart).
struct TeacherTime {
  double seconds = 0;                         // on its ranks, with what waits there for other stages
  double exposed = 0;                         // of its exchanges, among these
  bool is_beside = false;                     // the student's steps, on ranks of its own
  std::vector<ExchangeTime> by_traffic = {};  // as its plan's
};

/// Seconds of a step. Products and other kernels follow one another; exchanges that run beside them count for what is
/// longer than they are, as does what comes from a GPU's host and goes there. A stage of a pipeline waits for others as
/// its schedule says. A teacher over the same ranks runs in front of all of it; one on ranks of its own at the step
/// behind this one, and is waited for where that takes longer.
struct StepTime {
  double flops = 0;     // of the rank's products, without those of a teacher apart
  double bytes = 0;     // that its other kernels read and write
  double products = 0;  // seconds of the ones,
  double memory = 0;    // and of the others
  double exchanges = 0;
  double exposed = 0;                         // of the exchanges
  double bus = 0;                             // of what lies in the host's memory, likewise
  double waits = 0;                           // for other stages, with what they send
  double teacher = 0;                         // for a teacher in a layout of its own
  std::vector<ExchangeTime> by_traffic = {};  // as plan.traffic
  TeacherTime of_teacher = {};                // of one in a layout of its own

  double seconds() const {
    const double own = products + memory + exposed + bus + waits;
    return of_teacher.is_beside ? std::max(own, of_teacher.seconds) : own + teacher;
  }
};

StepTime step_time(const RunConfig& config, const PlannedModels& models, const RankPlan& plan,
                   const PlannedWorld& world, const Cluster& cluster);

/// Whether it is among ranks that share what is trained: sums of gradients, and values that are dealt
/// (parallel::GradientGroups names such groups).
bool is_of_gradients(const parallel::ExchangeCount& traffic);

double tokens_of_run(const RunConfig& config);

/// Of all steps of a run.
struct RunFigures {
  double tokens = 0;
  double seconds = 0;
  double kwh = 0;   // 0: not known
  double cost = 0;  // likewise
};
RunFigures run_figures(const RunConfig& config, const StepTime& time, const PlannedWorld& world,
                       const Cluster& cluster);

}  // namespace limbeck::launch
