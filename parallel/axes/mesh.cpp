#include "parallel/axes/mesh.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <numeric>

#include "core/slice.h"

namespace limbeck::parallel {

using core::fail_usage;

int Layout::num_ranks() const {
  int product = 1;
  for (const LayoutAxis& axis : layout_axes) product *= std::max(this->*axis.size, 1);
  return product;
}

Layout parse_layout(std::string_view text) {
  constexpr std::array later{"cp", "pp", "edp"};
  constexpr int most_ranks = 1 << 20;
  const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
  Layout layout{.text = std::string(text)};
  if (text.empty()) fail_usage("layout '': expected axes and their sizes, such as dp2ep2");
  std::int64_t product = 1;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t start = at;
    while (at < text.size() && is_letter(text[at])) ++at;
    const std::string_view axis = text.substr(start, at - start);
    if (std::find(later.begin(), later.end(), axis) != later.end())
      fail_usage("layout '{}': axis {} at position {} is not built yet, expected dp, tp, ep or etp", text, axis,
                 start + 1);
    const auto found = std::ranges::find(layout_axes, axis, &LayoutAxis::name);
    if (found == layout_axes.end())
      fail_usage("layout '{}': '{}' at position {} is no axis, expected dp, tp, ep or etp", text,
                 axis.empty() ? text.substr(start, 1) : axis, start + 1);
    int& size = layout.*found->size;
    if (size > 0) fail_usage("layout '{}': axis {} at position {} is named twice", text, axis, start + 1);
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + at, end, size);
    if (error != std::errc() || size < 1 || size > 65536)
      fail_usage("layout '{}': expected a size from 1 to 65536 after {} at position {}", text, axis, at + 1);
    at = static_cast<std::size_t>(stop - text.data());
    product *= size;
    if (product > most_ranks) fail_usage("layout '{}': more than {} ranks", text, most_ranks);
  }
  return layout;
}

std::string world_fault(const Layout& layout, int num_ranks) {
  const auto fault = [&](const char* what, int expected) {
    return fmt::format("layout '{}': the world has {} ranks, expected {}{}", layout.text, num_ranks, what, expected);
  };
  if (layout.dp > 0) return num_ranks == layout.num_ranks() ? "" : fault("", layout.num_ranks());
  const int factor = std::lcm(std::max(layout.tp, 1), std::max(layout.ep, 1) * std::max(layout.etp, 1));
  return num_ranks % factor == 0 ? "" : fault("a multiple of ", factor);
}

void check_world(const Layout& layout, int num_ranks) {
  if (const std::string fault = world_fault(layout, num_ranks); !fault.empty()) fail_usage("{}", fault);
}

Mesh::Mesh(std::shared_ptr<WorldComm> world, const Layout& layout)
    : layout_(layout), etp_(std::max(layout.etp, 1)), world_(std::move(world)) {
  check_world(layout_, world_->size());
  const int tp = std::max(layout_.tp, 1);
  const int experts = std::max(layout_.ep, 1) * etp_;
  const int rank = world_->rank();
  dp_ = world_->split(rank % tp, rank, "dp");
  tp_ = world_->split(rank / tp, rank, "tp");
  edp_ = world_->split(rank % experts, rank, "edp");
  experts_ = world_->split(rank / experts, rank, "experts");
  etp_group_ = world_->split(rank / etp_, rank, "etp");
}

WorldComm& Mesh::along(std::string_view axis) const {
  core::check(axis == "tp" || axis == "etp", "mesh: {} was asked for, expected tp or etp", axis);
  return axis == "tp" ? *tp_ : *etp_group_;
}

void check_experts(std::int64_t num_experts, std::int64_t num_ranks) {
  if (num_experts % num_ranks != 0)
    fail_usage("experts: {} cannot be cut over ep {}, expected a multiple of it", num_experts, num_ranks);
}

void place(core::Parameter& parameter, const Mesh& mesh, const core::Cut& cut) {
  using core::AxisRole;
  const auto shard = [&](const char* axis, Axis place, int dimension, std::int64_t unit) {
    const core::Slice part = core::slice_of(parameter.global_shape[dimension] / unit, place.rank, place.size);
    parameter.placement.push_back({axis, AxisRole::Sharded, dimension, part.first * unit, part.count * unit});
  };
  parameter.placement.clear();
  if (cut.is_expert) {
    check_experts(parameter.global_shape[0], mesh.ep().size);
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
  parameter.placement.push_back({.axis = "dp", .role = AxisRole::PartialGradient});
  parameter.first_replica = mesh.dp().rank() == 0 && (is_cut || mesh.tp().rank() == 0);
}

}  // namespace limbeck::parallel
