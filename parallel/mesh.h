// The mesh: named axes over one world of ranks, and the groups that they cut it into.
//
//     Layout layout = parse_layout("dp2ep2");                       // 4 ranks: dp 4, ep 2, edp 2
//     Mesh mesh(world.comm(), layout);
//     mesh.dp().all_reduce(x, core::Reduce::Sum);
//
// Two views of the same ranks. Attention: dp = world / (tp cp pp). Experts: edp = world / (ep etp pp), so that experts
// are folded over data parallelism: `ep2` alone is 2 ranks with dp 2, ep 2, edp 1.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "core/parameter.h"
#include "parallel/world.h"

namespace limbeck::parallel {

/// The axes that a layout names; 0 where it does not name one.
struct Layout {
  std::string text;
  int dp = 0;
  int ep = 0;
  /// The product of the named axes: the world that the layout needs unless another is given.
  int num_ranks() const { return (dp > 0 ? dp : 1) * (ep > 0 ? ep : 1); }
};

/// "dp2ep2", "ep4", "dp1", in any order. Throws a UsageError that names the position and what was expected there.
Layout parse_layout(std::string_view text);

/// Throws a UsageError unless a world of `num_ranks` can have this layout: the product of its axes if it names dp, else
/// a multiple of it.
void check_world(const Layout& layout, int num_ranks);

class Mesh {
 public:
  /// Every rank of `world` constructs its mesh at the same point.
  Mesh(std::shared_ptr<WorldComm> world, const Layout& layout);

  WorldComm& world() const { return *world_; }
  WorldComm& dp() const { return *dp_; }    // ranks with different data: all of them, until tp, cp or pp are named
  WorldComm& ep() const { return *ep_; }    // consecutive ranks, over which the experts are cut
  WorldComm& edp() const { return *edp_; }  // ranks that hold the same experts, `ep` apart
  std::shared_ptr<WorldComm> ep_group() const { return ep_; }
  std::shared_ptr<WorldComm> dp_group() const { return dp_; }
  const Layout& layout() const { return layout_; }

 private:
  Layout layout_;
  std::shared_ptr<WorldComm> world_, dp_, ep_, edp_;
};

/// Fills placement and first_replica. A dense parameter is whole on every rank, its gradient partial over dp. An expert
/// parameter [E,...] (experts stacked) is cut along E over ep, its gradient partial over edp; throws a UsageError
/// unless ep divides E.
void place(core::Parameter& parameter, const Mesh& mesh, bool is_expert);

/// Throws a UsageError that names both unless `num_ranks` divides `num_experts`.
void check_experts(std::int64_t num_experts, std::int64_t num_ranks);

}  // namespace limbeck::parallel
