// The layouts under which a run fits into a cluster's devices, the fastest first.
//
//     for (const PlannedLayout& found : best_layouts(config, models, world, cluster, 10)) ...
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/plan/step_time.h"

namespace limbeck::launch {

/// Whether the layout is to be found (automatic_layout.h).
inline bool is_automatic(const RunConfig& config) { return config.parallel.layout == "auto"; }

/// A config's settings that divide a step, and what comes of them.
struct PlannedLayout {
  std::string layout;
  Shard shard = Shard::Nothing;
  bool sequence_parallel = false;
  bool recompute = false;
  RankPlan plan = {};
  StepTime time = {};
  /// As `limbeck train --set` takes them.
  std::vector<std::string> sets() const;
  /// "tp2ep2, shard OPTIMIZER, with recompute"
  std::string text() const;
};

/// "PARAMETERS", as the config names it.
std::string_view name_of(Shard shard);

/// Every layout of so many ranks whose tensors are cut within a node and that gives each rank a sequence in each pass,
/// and the config's own, with the least of sharding and recomputation that lets it fit (where the config's layout is
/// "auto" from its own on); where two take as long, the one that takes less memory goes before. At most `most` of them.
std::vector<PlannedLayout> best_layouts(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                                        const Cluster& cluster, std::size_t most);

/// Whether any of them but the config's own is there to be tried: else batch.sequences_per_step is too small.
bool feeds_any_layout(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                      const Cluster& cluster);

/// Of the same layouts and settings what takes the least memory of a rank, whether it fits or not, without its time.
std::optional<PlannedLayout> smallest_layout(const RunConfig& config, const PlannedModels& models,
                                             const PlannedWorld& world, const Cluster& cluster);

}  // namespace limbeck::launch
