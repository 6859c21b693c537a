#include "parallel/mesh.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace limbeck::parallel {

using core::fail_usage;

Layout parse_layout(std::string_view text) {
  constexpr std::array later{"tp", "cp", "pp", "edp", "etp"};
  const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
  Layout layout{.text = std::string(text)};
  if (text.empty()) fail_usage("layout '': expected axes and their sizes, such as dp2ep2");
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t start = at;
    while (at < text.size() && is_letter(text[at])) ++at;
    const std::string_view axis = text.substr(start, at - start);
    int* size = axis == "dp" ? &layout.dp : axis == "ep" ? &layout.ep : nullptr;
    if (std::find(later.begin(), later.end(), axis) != later.end())
      fail_usage("layout '{}': axis {} at position {} is not built yet, expected dp or ep", text, axis, start + 1);
    if (size == nullptr)
      fail_usage("layout '{}': '{}' at position {} is no axis, expected dp or ep", text,
                 axis.empty() ? text.substr(start, 1) : axis, start + 1);
    if (*size > 0) fail_usage("layout '{}': axis {} at position {} is named twice", text, axis, start + 1);
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + at, end, *size);
    if (error != std::errc() || *size < 1 || *size > 65536)
      fail_usage("layout '{}': expected a size from 1 to 65536 after {} at position {}", text, axis, at + 1);
    at = static_cast<std::size_t>(stop - text.data());
  }
  if (std::int64_t{std::max(layout.dp, 1)} * std::max(layout.ep, 1) > 1 << 20)
    fail_usage("layout '{}': more than {} ranks", text, 1 << 20);
  return layout;
}

void check_world(const Layout& layout, int num_ranks) {
  const int named = layout.num_ranks();
  if (layout.dp > 0 ? num_ranks != named : num_ranks % named != 0)
    fail_usage("layout '{}': the world has {} ranks, expected {}{}", layout.text, num_ranks,
               layout.dp > 0 ? "" : "a multiple of ", named);
}

Mesh::Mesh(std::shared_ptr<WorldComm> world, const Layout& layout) : layout_(layout), world_(std::move(world)) {
  check_world(layout_, world_->size());
  const int ep = std::max(layout_.ep, 1);
  const int rank = world_->rank();
  dp_ = world_->split(0, rank, "dp");
  ep_ = world_->split(rank / ep, rank, "ep");
  edp_ = world_->split(rank % ep, rank, "edp");
}

void check_experts(std::int64_t num_experts, std::int64_t num_ranks) {
  if (num_experts % num_ranks != 0)
    fail_usage("experts: {} cannot be cut over ep {}, expected a multiple of it", num_experts, num_ranks);
}

void place(core::Parameter& parameter, const Mesh& mesh, bool is_expert) {
  using core::AxisRole;
  parameter.placement.clear();
  if (!is_expert) {
    parameter.placement.push_back({.axis = "dp", .role = AxisRole::PartialGradient});
    parameter.first_replica = mesh.world().rank() == 0;
    return;
  }
  const std::int64_t num_experts = parameter.global_shape[0];
  check_experts(num_experts, mesh.ep().size());
  const std::int64_t local = num_experts / mesh.ep().size();
  parameter.placement.push_back({"ep", AxisRole::Sharded, 0, mesh.ep().rank() * local, local});
  parameter.placement.push_back({.axis = "edp", .role = AxisRole::PartialGradient});
  parameter.first_replica = mesh.edp().rank() == 0;
}

}  // namespace limbeck::parallel
