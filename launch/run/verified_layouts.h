// The layouts that `limbeck verify` compares: as they are written, and a set that covers what there is.
//
//     const LayoutItem item = parse_layout_item("tp2ep2+parallel.sequence_parallel=true");
//     config = load_given_config(files, settings_of(sets, item));
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "launch/config/config.h"

namespace limbeck::launch {

/// A layout, and fields that are set beside it.
struct LayoutItem {
  std::string text;                    // as it was written
  std::string layout;                  // as parallel.layout
  std::vector<std::string> sets = {};  // as --set
};

/// "tp2+A.B=VALUE+C.D=VALUE": a layout of parallel/axes/mesh.h, and fields. Throws a UsageError of the layout.
LayoutItem parse_layout_item(const std::string& text);

/// `sets`, and behind them those of the item and its layout.
std::vector<std::string> settings_of(std::vector<std::string> sets, const LayoutItem& item);

/// Ranks that a config with an item's settings takes where nothing else says how many: the product of the axes that its
/// layout names, and the teacher's own.
int ranks_of(const RunConfig& config);

/// Layouts of `num_ranks` ranks of `config` (some of which may be the teacher's) that have every axis alone (ep also as
/// large as divides the experts), every two together, and all, but for those that parallel.shard_ranks refuses
/// (parallel/axes/check_sharding.h); and beside them what else divides a step: sequence parallelism, chunks of tokens,
/// a pipeline's schedules, micro-batches, each kind of `shard` and groups of sharers, exchanges, copies and another
/// order of experts, a teacher in another layout, recompute; several of them in one item, and none for which `may_be`
/// says of the item that the config refuses it.
std::vector<LayoutItem> covering_layouts(int num_ranks, const RunConfig& config, const nn::ModelConfig& model,
                                         const std::function<bool(const LayoutItem&)>& may_be);

}  // namespace limbeck::launch
