#include "parallel/axes/mesh.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "core/slice.h"
#include "parallel/axes/nearest_layouts.h"

namespace limbeck::parallel {

using core::fail_usage;

namespace {

constexpr int most_ranks = 1 << 20;

/// An axis that is not named has one rank.
int size_of(const Layout& layout, int Layout::*axis) { return std::max(layout.*axis, 1); }

/// Collective over the group, of which every rank comes to the same.
ExpertNodes nodes_of(WorldComm& group, ExpertExchange exchange) {
  if (exchange == ExpertExchange::Flat || group.size() == 1) return {};
  std::vector<int> of;
  for (int r = 0; r < group.size(); ++r) of.push_back(group.node_of(r));
  const auto num_nodes = static_cast<int>(std::set<int>(of.begin(), of.end()).size());
  if (exchange == ExpertExchange::Auto && (num_nodes == 1 || num_nodes == group.size())) return {};
  const int node = of[static_cast<std::size_t>(group.rank())];
  return {std::move(of), group.split(node, group.rank(), group.name() + " inside")};
}

}  // namespace

Layout parse_layout(std::string_view text) {
  const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
  Layout layout{.text = std::string(text)};
  if (text.empty()) fail_usage("layout '': expected axes and their sizes, such as dp2ep2");
  std::int64_t product = 1;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t start = at;
    while (at < text.size() && is_letter(text[at])) ++at;
    const std::string_view name = text.substr(start, at - start);
    const auto found = std::ranges::find(layout_axes, name, &LayoutAxis::name);
    if (found == layout_axes.end())
      fail_usage("layout '{}': '{}' at position {} is no axis, expected dp, cp, tp, pp, ep or etp", text,
                 name.empty() ? text.substr(start, 1) : name, start + 1);
    int& size = layout.*found->size;
    if (size > 0) fail_usage("layout '{}': axis {} at position {} is named twice", text, name, start + 1);
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + at, end, size);
    if (error != std::errc() || size < 1 || size > 65536)
      fail_usage("layout '{}': expected a size from 1 to 65536 after {} at position {}", text, name, at + 1);
    at = static_cast<std::size_t>(stop - text.data());
    product *= size;
    if (product > most_ranks) fail_usage("layout '{}': more than {} ranks", text, most_ranks);
  }
  return layout;
}

int Layout::num_ranks() const {
  int product = 1;
  for (const LayoutAxis& axis : layout_axes) product *= size_of(*this, axis.size);
  return product;
}

std::string world_fault(const Layout& layout, int num_ranks) {
  if (fits(layout, num_ranks)) return "";
  const auto says = [&](const std::string& expected) {
    return fmt::format("layout '{}': the world has {} ranks, expected {}; {} ranks can be {}", layout.text, num_ranks,
                       expected, num_ranks, nearest_layouts(layout, num_ranks));
  };
  if (layout.dp > 0) {
    const int others = layout.num_ranks() / layout.dp;
    if (num_ranks % others != 0)
      return says(fmt::format("{}, for tp cp pp ep etp = {} does not divide it", layout.num_ranks(), others));
    return says(fmt::format("{}, for dp is {}, and {} / (tp cp pp ep etp) = {}", layout.num_ranks(), layout.dp,
                            num_ranks, num_ranks / others));
  }
  const std::int64_t of_attention = attention_ranks(layout), of_experts = expert_ranks(layout);
  const bool is_attention = num_ranks % of_attention != 0;
  return says(fmt::format("a multiple of {}, for {} = {} does not divide it", std::lcm(of_attention, of_experts),
                          is_attention ? "tp cp pp" : "ep etp pp", is_attention ? of_attention : of_experts));
}

void check_world(const Layout& layout, int num_ranks) {
  if (const std::string fault = world_fault(layout, num_ranks); !fault.empty()) fail_usage("{}", fault);
}

RingWays::RingWays(WorldComm& world, int color, int num_stages, std::string_view name) : num_stages_(num_stages) {
  for (std::size_t n = 0; n <= number_of(num_stages - 1); ++n)
    groups_.push_back(world.split(color, world.rank(), fmt::format("{} {}", name, n)));
}

Mesh::Mesh(std::shared_ptr<WorldComm> world, const Layout& layout, ExpertExchange exchange)
    : layout_(layout), etp_(size_of(layout, &Layout::etp)), world_(std::move(world)) {
  check_world(layout_, world_->size());
  const int tp = size_of(layout_, &Layout::tp);
  const int replica = tp * size_of(layout_, &Layout::cp);  // ranks of a stage with the same sequences
  const int experts = size_of(layout_, &Layout::ep) * etp_;
  const int num_stages = size_of(layout_, &Layout::pp);
  const int rank = world_->rank();
  const int in_stage = world_->size() / num_stages;
  const int stage = rank / in_stage;
  const int place = rank % in_stage;
  stage_ = num_stages == 1 ? world_ : world_->split(stage, rank, "stage");
  pp_ = world_->split(place, rank, "pp");
  if (num_stages > 1)
    pp_ways_ =
        std::make_shared<const PipelineWays>(PipelineWays{.streams = {*world_, place, num_stages, "pp streams"},
                                                          .gradients = {*world_, place, num_stages, "pp gradients"},
                                                          .taught = world_->split(place, rank, "pp taught")});
  dp_ = world_->split(stage * replica + place % replica, rank, "dp");
  cp_ = world_->split(rank / replica * tp + rank % tp, rank, "cp");
  data_ = replica == tp ? dp_ : world_->split(stage * tp + place % tp, rank, "data");
  tp_ = world_->split(rank / tp, rank, "tp");
  edp_ = world_->split(stage * experts + place % experts, rank, "edp");
  experts_ = world_->split(rank / experts, rank, experts == etp_ ? "etp" : "experts");
  etp_group_ = world_->split(rank / etp_, rank, "etp");
  expert_nodes_ = nodes_of(*experts_, exchange);
}

WorldComm& Mesh::along(std::string_view axis) const {
  core::check(axis == "tp" || axis == "etp", "mesh: {} was asked for, expected tp or etp", axis);
  return axis == "tp" ? *tp_ : *etp_group_;
}

void place(core::Parameter& parameter, const Mesh& mesh, const core::Cut& cut) {
  using core::AxisRole;
  const auto shard = [&](const char* axis, Axis place, int dimension, std::int64_t unit) {
    const core::Slice part = core::slice_of(parameter.global_shape[dimension] / unit, place.rank, place.size);
    parameter.placement.push_back({axis, AxisRole::Sharded, dimension, part.first * unit, part.count * unit});
  };
  parameter.placement.clear();
  if (cut.is_expert) {
    shard("ep", mesh.ep(), 0, 1);
    if (cut.dimension >= 0) shard("etp", mesh.etp(), cut.dimension, cut.unit);
    parameter.placement.push_back({.axis = "edp", .role = AxisRole::PartialGradient});
    parameter.first_replica = mesh.edp().rank() == 0;
    return;
  }
  const bool is_cut = cut.dimension >= 0;
  if (is_cut)
    shard("tp", {mesh.tp().rank(), mesh.tp().size()}, cut.dimension, cut.unit);
  else
    parameter.placement.push_back(
        {.axis = "tp", .role = cut.sees_share ? AxisRole::PartialGradient : AxisRole::Replicated});
  for (const char* axis : {"dp", "cp"})
    parameter.placement.push_back({.axis = axis, .role = AxisRole::PartialGradient});
  parameter.first_replica = mesh.data().rank() == 0 && (is_cut || mesh.tp().rank() == 0);
}

}  // namespace limbeck::parallel
