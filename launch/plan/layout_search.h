// The layouts under which a run fits into a cluster's devices, the fastest first.
//
//     for (const PlannedLayout& found : best_layouts(config, models, world, cluster, 10)) ...
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/plan/stage_work.h"

namespace limbeck::launch {

/// Whether the layout is to be found (automatic_layout.h).
inline bool is_automatic(const RunConfig& config) { return config.parallel.layout == "auto"; }

/// A config's settings that divide a step, and what comes of them.
struct PlannedLayout {
  std::string layout;
  Shard shard = Shard::Nothing;
  bool sequence_parallel = false;
  bool recompute = false;
  std::int64_t shard_ranks = 0;        // with shard: among so many neighbours; 0: all
  std::optional<StageWork> work = {};  // with pp; without it the config's own is of no effect
  RankPlan plan = {};
  StepTime time = {};
  /// As `limbeck train --set` takes them.
  std::vector<std::string> sets() const;
  /// "tp2ep2, shard OPTIMIZER within 8 ranks, with recompute", "pp2, ZERO_BUBBLE, 4 micro-batches"
  std::string text() const;
};

/// "PARAMETERS", as the config names it.
std::string_view name_of(Shard shard);
/// "PARAMETERS", "OPTIMIZER within 8 ranks".
std::string sharing_text(const PlannedLayout& layout);

/// The config under that layout: of `parallel` layout, shard, shard_ranks and sequence_parallel, and train.recompute;
/// with pp also what its work says.
RunConfig under(RunConfig config, const PlannedLayout& layout);

/// Every layout of so many ranks whose tensors are cut within a node and that gives each rank a sequence in each pass,
/// and the config's own, with the least of sharding and recomputation that lets it fit, and a rank of a teacher's that
/// has others beside it (where the config's layout is "auto" from its own on, and within its shard_ranks). With as
/// large an ep as there may be each expert is cut by etp too, where a rank had too much of them. With pp, of each
/// number of stages the two that are estimated to be the fastest of those that fit (fastest_work), and no more stages
/// once more of them took longer. Of the four fastest that share anything over several nodes each shares it within a
/// node, where that fits and is faster. Where two take as long, the one that takes less memory goes before. At most
/// `most` of them, and none that the run refuses (check_experts_may_move). Throws a UsageError where the layout is to
/// be found and its shard_ranks do not divide the ranks.
std::vector<PlannedLayout> best_layouts(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                                        const Cluster& cluster, std::size_t most);

/// Whether any of them but the config's own is there to be tried: else batch.sequences_per_step is too small.
bool feeds_any_layout(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                      const Cluster& cluster);

/// Of the same layouts and settings, of those with pp the one whose last stage keeps least, what takes the least memory
/// of a rank (RankPlan::most_held), whether it fits or not, without its time.
std::optional<PlannedLayout> smallest_layout(const RunConfig& config, const PlannedModels& models,
                                             const PlannedWorld& world, const Cluster& cluster);

}  // namespace limbeck::launch
