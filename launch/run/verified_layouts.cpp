#include "launch/run/verified_layouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <iterator>

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
    const bool has_heads = model_.mamba.num_heads == 0 || layout.tp <= model_.mamba.most_parts();
    return parallel::world_fault(layout, num_ranks_).empty() && layout.pp <= model_.num_layers && has_heads &&
           shares(layout);
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

constexpr LayoutAxis tp_axis{"tp", &Layout::tp}, ep_axis{"ep", &Layout::ep};

/// A teacher that steps ask beside the student, by its layout.
bool runs_beside(const RunConfig& config) {
  return config.teacher && !config.teacher->source.empty() && config.parallel.teacher_ranks == 0 &&
         config.parallel.teacher_layout.empty();
}

}  // namespace

std::vector<LayoutItem> covering_layouts(int num_ranks, const RunConfig& config, const nn::ModelConfig& model,
                                         const std::function<bool(const LayoutItem&)>& may_be) {
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
  // With those of the fields that the config allows, where there are any; "" is none.
  const auto add_with = [&](const std::string& layout, std::initializer_list<std::string> fields) {
    std::string text = layout;
    for (const std::string& field : fields)
      if (!field.empty() && may_be(parse_layout_item(fmt::format("{}+{}", text, field)))) text += "+" + field;
    if (text != layout) items.push_back(parse_layout_item(text));
  };
  std::vector<std::string> with_tp;
  std::ranges::copy_if(layouts, std::back_inserter(with_tp),
                       [](const std::string& layout) { return parallel::parse_layout(layout).tp > 1; });
  if (!config.parallel.sequence_parallel)
    for (const std::string& layout : with_tp)
      add_with(layout, {"parallel.sequence_parallel=true",
                        with_tp.size() > 1 && layout == with_tp.back() ? "parallel.tensor_chunks=2" : ""});
  if (const std::string stages = fmt::format("pp{}", size);
      can.has_stages() && can.fits(parallel::parse_layout(stages))) {
    add_with(stages, {"batch.micro_batches=4", "parallel.schedule=ZERO_BUBBLE"});
    if (2 * size <= model.num_layers)
      add_with(stages, {"batch.micro_batches=4", "parallel.schedule=INTERLEAVED+parallel.chunks=2"});
  }
  const std::string& first = layouts.front();
  add_with(first, {"batch.micro_batches=3", ranks > 1 ? "parallel.shard=OPTIMIZER" : ""});
  if (ranks > 1) {
    const bool has_groups = size < ranks && config.parallel.shard_ranks == 0;
    add_with(first,
             {"parallel.shard=GRADIENTS", has_groups ? fmt::format("parallel.shard_ranks={}", size) : std::string()});
    add_with(first, {"parallel.shard=PARAMETERS"});
  }
  // A teacher whose ranks have whole tensors rounds as on one rank: its routing, which is not replayed, is the same.
  if (const std::string cut = can.alone(tp_axis); !cut.empty())
    add_with(cut, {"parallel.tensor_chunks=2",
                   runs_beside(config) ? fmt::format("parallel.teacher_layout=dp{}", ranks) : std::string()});
  const std::string even = can.alone(ep_axis, true), experts = even.empty() ? can.alone(ep_axis) : even;
  if (can.has(ep_axis) && !experts.empty()) {
    add_with(experts, {"parallel.expert_exchange=TWO_LEVEL", "parallel.expert_chunks=2"});
    add_with(experts, {"parallel.expert_replicas=1", "parallel.deal_experts_every_steps=1"});
  }
  if (!config.train.recompute) add_with(layouts.back(), {"train.recompute=true"});
  for (LayoutItem& item : items)
    item.sets.insert(item.sets.begin(), {"parallel.stages=[]", "parallel.chunks=1", "parallel.schedule=ONE_F_ONE_B"});
  return items;
}

}  // namespace limbeck::launch
