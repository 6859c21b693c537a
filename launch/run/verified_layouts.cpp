#include "launch/run/verified_layouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "launch/run/cut_sequences.h"
#include "launch/run/pipeline.h"
#include "launch/run/sharing.h"
#include "parallel/axes/check_sharding.h"
#include "parallel/axes/mesh.h"

namespace limbeck::launch {

using parallel::Layout;
using parallel::LayoutAxis;

LayoutItem parse_layout_item(const std::string& text) {
  LayoutItem item{.text = text, .layout = text.substr(0, text.find('+'))};
  parallel::parse_layout(item.layout);
  for (std::size_t at = item.layout.size(); at < text.size();) {
    // "+=" appends to a list.
    std::size_t end = text.find('+', at + 1);
    while (end != std::string::npos && text.compare(end, 2, "+=") == 0) end = text.find('+', end + 1);
    item.sets.push_back(text.substr(at + 1, end - at - 1));
    at = std::min(end, text.size());
  }
  return item;
}

std::vector<std::string> settings_of(std::vector<std::string> sets, const LayoutItem& item) {
  sets.push_back("parallel.layout=" + item.layout);
  sets.insert(sets.end(), item.sets.begin(), item.sets.end());
  return sets;
}

int ranks_of(const RunConfig& config) {
  return parallel::parse_layout(config.parallel.layout).num_ranks() + static_cast<int>(config.parallel.teacher_ranks);
}

namespace {

int smallest_factor(int n) {
  for (int factor = 2; factor * factor <= n; ++factor)
    if (n % factor == 0) return factor;
  return n;
}

/// What a world and a model can have.
class Candidates {
 public:
  Candidates(int num_ranks, const RunConfig& config, const nn::ModelConfig& model)
      : num_ranks_(num_ranks),
        model_(model),
        sharding_(sharding_of(config.parallel)),
        cuts_sequences_(can([&] { check_cut_sequences(config, model, {.rank = 0, .size = 2}); })),
        has_stages_(can([&] { check_pipeline(config, model, 2); })) {}

  /// Whether the axis is of use to the model.
  bool has(const LayoutAxis& axis) const {
    if (axis.name == "pp") return has_stages_;
    if (axis.name == "cp") return cuts_sequences_;
    return (axis.name != "ep" && axis.name != "etp") || model_.moe.num_experts > 0;
  }
  bool has_stages() const { return has_stages_ && num_ranks_ > 1; }
  bool fits(const Layout& layout) const {
    return parallel::world_fault(layout, num_ranks_).empty() && layout.pp <= model_.num_layers && shares(layout);
  }
  /// Whether each rank has as many experts.
  bool is_even(const Layout& layout) const { return model_.moe.num_experts % std::max(layout.ep, 1) == 0; }
  /// The axis at its largest, or the largest that is even; empty where it does not go above one.
  std::string alone(const LayoutAxis& axis, bool evenly = false) const {
    for (int size = num_ranks_; size > 1; --size)
      if (const Layout layout = parallel::parse_layout(fmt::format("{}{}", axis.name, size));
          fits(layout) && (!evenly || is_even(layout)))
        return layout.text;
    return "";
  }

 private:
  /// Whether the neighbours of parallel.shard_ranks are as many everywhere; where they do not divide the world they are
  /// under no layout, and a run says so.
  bool shares(const Layout& layout) const {
    return sharding_.ranks == 0 || num_ranks_ % sharding_.ranks != 0 ||
           parallel::sharding_fault(layout, num_ranks_, sharding_.ranks).empty();
  }

  static bool can(const std::function<void()>& check) {
    try {
      check();
      return true;
    } catch (const core::UsageError&) {
      return false;
    }
  }

  int num_ranks_;
  const nn::ModelConfig& model_;
  parallel::Sharding sharding_;
  bool cuts_sequences_, has_stages_;
};

}  // namespace

std::vector<LayoutItem> covering_layouts(int num_ranks, const RunConfig& config, const nn::ModelConfig& model) {
  const int ranks = std::max(1, num_ranks - static_cast<int>(config.parallel.teacher_ranks)),
            size = smallest_factor(ranks);
  // What a config says of its stages is not of these layouts, which have their own.
  RunConfig of_items = config;
  of_items.parallel.stages.clear();
  of_items.parallel.chunks = 1;
  of_items.parallel.schedule = PipelineKind::OneFOneB;
  const Candidates can(ranks, of_items, model);
  std::vector<std::string> layouts;
  const auto add = [&](const std::string& layout) {
    if (!layout.empty() && std::ranges::find(layouts, layout) == layouts.end()) layouts.push_back(layout);
  };
  std::string all, without_stages;
  for (const LayoutAxis& axis : parallel::layout_axes) {
    if (!can.has(axis)) continue;
    add(can.alone(axis));
    if (axis.name == "ep") add(can.alone(axis, true));
    if (axis.name == "dp" || ranks == 1) continue;
    all += fmt::format("{}{}", axis.name, size);
    if (axis.name != "pp") without_stages += fmt::format("{}{}", axis.name, size);
  }
  const auto add_if_fits = [&](const std::string& layout) {
    if (!layout.empty() && can.fits(parallel::parse_layout(layout))) add(layout);
  };
  for (const LayoutAxis& a : parallel::layout_axes)
    for (const LayoutAxis& b : parallel::layout_axes)
      if (&a < &b && can.has(a) && can.has(b) && ranks > 1)
        add_if_fits(fmt::format("{0}{2}{1}{2}", a.name, b.name, size));
  add_if_fits(without_stages);
  add_if_fits(all);
  if (layouts.empty()) layouts.emplace_back("dp1");

  std::vector<LayoutItem> items;
  for (const std::string& layout : layouts) items.push_back(parse_layout_item(layout));
  for (const std::string& layout : layouts)
    if (parallel::parse_layout(layout).tp > 1 && !config.parallel.sequence_parallel)
      items.push_back(parse_layout_item(layout + "+parallel.sequence_parallel=true"));
  const bool has_batches = config.moe_loss.balance_scope != nn::BalanceScope::GlobalBatch;
  if (const std::string stages = fmt::format("pp{}", size);
      can.has_stages() && can.fits(parallel::parse_layout(stages))) {
    const std::string batches = has_batches ? "+batch.micro_batches=4" : "";
    items.push_back(parse_layout_item(stages + batches + "+parallel.schedule=ZERO_BUBBLE"));
    if (2 * size <= model.num_layers)
      items.push_back(parse_layout_item(stages + batches + "+parallel.schedule=INTERLEAVED+parallel.chunks=2"));
  }
  if (has_batches) items.push_back(parse_layout_item(layouts.front() + "+batch.micro_batches=3"));
  if (ranks > 1 && config.parallel.shard == Shard::Nothing)
    items.push_back(parse_layout_item(layouts.front() + "+parallel.shard=PARAMETERS"));
  if (!config.train.recompute) items.push_back(parse_layout_item(layouts.back() + "+train.recompute=true"));
  for (LayoutItem& item : items)
    item.sets.insert(item.sets.begin(), {"parallel.stages=[]", "parallel.chunks=1", "parallel.schedule=ONE_F_ONE_B"});
  return items;
}

}  // namespace limbeck::launch
