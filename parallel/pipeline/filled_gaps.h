// The order of a schedule with weights apart by what its actions cost.
//
//     PipelineSchedule schedule = make_schedule(ScheduleKind::ZeroBubble, stages, chunks, micro_batches);
//     schedule = with_gaps_filled(std::move(schedule), costs);
#pragma once

#include "parallel/pipeline/schedule.h"

namespace limbeck::parallel {

/// The same actions, of each kind on each rank in the same order, one kind among the others as costs have it: gradients
/// of weights lie where a rank would wait, or where their memory is wanted (the heuristic of Qi et al. 2023, arXiv
/// 2401.10241, section 3.1). Several such orders are walked, and the fastest is taken; the schedule as it is where it
/// has no weights apart, and where none is faster by a hundredth, for costs are no truer than that. No rank ever holds
/// more activations than it does in `schedule` (peak_activations). A function of its arguments alone.
/// Throws as simulate does.
PipelineSchedule with_gaps_filled(PipelineSchedule schedule, const PipelineCosts& costs);

}  // namespace limbeck::parallel
