#include "parallel/axes/gradient_groups.h"

#include <algorithm>

#include "parallel/axes/check_sharding.h"

namespace limbeck::parallel {
namespace {

enum Kind : std::uint8_t { Data, Edp, DataTp, Ends };

}  // namespace

bool lies_on_both_ends(const core::Parameter& parameter) {
  return std::ranges::any_of(parameter.placement, [](const core::AxisPlacement& axis) { return axis.axis == "pp"; });
}

// All of them, in one order: which ones a rank needs depends on the sizes of its parts.
GradientGroups::GradientGroups(const Mesh& mesh, const Sharding& sharding) : sharding_(sharding) {
  check_sharding(mesh, sharding);
  const int rank = mesh.world().rank(), neighbours = sharding.ranks > 0 ? sharding.ranks : mesh.world().size();
  const auto over = [&](WorldComm& ranks, const std::string& name) {
    Group group;
    group.all = ranks.split(0, ranks.rank(), name);
    if (!shares(Sharded::OptimizerState)) return group;
    group.sharers = ranks.split(rank / neighbours, ranks.rank(), name + " sharers");
    group.twins = ranks.split(group.sharers->rank(), ranks.rank(), name + " twins");
    return group;
  };
  groups_[Data] = over(mesh.data(), "dp gradients");
  groups_[Edp] = over(mesh.edp(), "edp gradients");
  groups_[DataTp] = over(mesh.stage(), "dp tp gradients");  // no other axis holds dense parameters
  groups_[Ends] = groups_[Data];
  if (mesh.pp().size() == 1) return;
  const bool is_end = mesh.pp().rank() == 0 || mesh.pp().rank() + 1 == mesh.pp().size();
  groups_[Ends] =
      over(*mesh.world().split(mesh.tp().rank() + (is_end ? 0 : mesh.tp().size()), rank, "pp ends"), "pp gradients");
}

std::size_t GradientGroups::index_of(const core::Parameter& parameter) const {
  const auto is_partial_over = [&](std::string_view axis) {
    return std::ranges::any_of(parameter.placement, [&](const core::AxisPlacement& a) {
      return a.axis == axis && a.role == core::AxisRole::PartialGradient;
    });
  };
  return is_partial_over("edp") ? Edp : is_partial_over("pp") ? Ends : is_partial_over("tp") ? DataTp : Data;
}

const GradientGroups::Group& GradientGroups::of(const core::Parameter& parameter) const {
  return groups_[index_of(parameter)];
}

}  // namespace limbeck::parallel
