// How the stages of a pipeline may work, and how they work fastest: by one pass that is planned, for each schedule and
// number of micro-batches that is tried.
//
//     const WorkEstimate best = fastest_work(config, models, world, cluster, teachers);  // parallel.layout is "pp4tp2"
//     plan_rank(with_work(config, best.work), models, world);                      // what it takes in truth
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/plan/step_time.h"

namespace limbeck::launch {

/// Settings of a config whose layout has pp.
struct StageWork {
  PipelineKind schedule = PipelineKind::OneFOneB;
  std::int64_t chunks = 1;
  std::vector<std::int64_t> layers = {};  // parallel.stages; empty: by what they cost
  std::int64_t micro_batches = 1;
  friend bool operator==(const StageWork&, const StageWork&) = default;

  /// As `limbeck train --set` takes them.
  std::vector<std::string> sets() const;
  /// "ZERO_BUBBLE, 2 chunks, 8 micro-batches"
  std::string text() const;
};

StageWork work_of(const RunConfig& config);
RunConfig with_work(RunConfig config, const StageWork& work);

/// Those that are tried for a layout with pp: 1F1B, zero bubble, and where there are layers enough zero bubble of two
/// chunks, which waits less than interleaved; with the config's micro-batches, and such as give each stage one, two and
/// four, as far as all passes have as many sequences (none but the config's where the balance loss counts a whole step).
std::vector<StageWork> tried_work(const RunConfig& config, const PlannedModels& models, int num_ranks);

/// What takes the least memory of these: 1F1B, with the most micro-batches.
StageWork smallest_work(const RunConfig& config, int num_ranks);

struct WorkEstimate {
  StageWork work;
  double seconds = 0;  // of a step
};
/// The fastest of these: of the last stage one pass over all of its sequences is planned, and times are of as many
/// passes as there are micro-batches, by step_time. A teacher on ranks of its own is planned for each number of them;
/// one in a layout of its own over the student's, which takes about as long by each, is left out. Of those that wait
/// for the same teacher the first.
WorkEstimate fastest_work(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                          const Cluster& cluster, TeacherPlans& teachers);

}  // namespace limbeck::launch
