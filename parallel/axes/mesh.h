// The mesh: named axes over one world of ranks, and the groups that they cut it into.
//
//     Layout layout = parse_layout("tp2ep2");                       // 4 ranks: dp 2, tp 2; edp 2, ep 2
//     Mesh mesh(world.comm(), layout);
//     mesh.dp().all_reduce(x, core::Reduce::Sum);
//
// Two views of the same ranks. Attention: dp = world / (tp cp pp). Experts: edp = world / (ep etp pp), so that experts
// are folded over data, context and tensor parallelism: `ep2` alone is 2 ranks with dp 2, ep 2, edp 1. Neighbours share
// the most: tp is the fastest axis of the first view, then cp, dp and pp; etp of the second, then ep, edp and pp.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/parameter.h"
#include "parallel/comm/world.h"

namespace limbeck::parallel {

/// The axes that a layout names; 0 where it does not name one.
struct Layout {
  std::string text;
  int dp = 0;
  int cp = 0;
  int tp = 0;
  int pp = 0;
  int ep = 0;
  int etp = 0;
  /// The product of the named axes: the world that the layout needs unless another is given.
  int num_ranks() const;
};

/// An axis that a layout may name, and where its size stands.
struct LayoutAxis {
  std::string_view name;
  int Layout::*size;
};
inline constexpr std::array layout_axes{LayoutAxis{"dp", &Layout::dp}, LayoutAxis{"cp", &Layout::cp},
                                        LayoutAxis{"tp", &Layout::tp}, LayoutAxis{"pp", &Layout::pp},
                                        LayoutAxis{"ep", &Layout::ep}, LayoutAxis{"etp", &Layout::etp}};

/// "dp2ep2", "tp4", "ep2tp2", in any order. Throws a UsageError that names the position and what was expected there.
Layout parse_layout(std::string_view text);

/// Why a world of `num_ranks` cannot have this layout, empty where it can: it has the product of the axes if dp is
/// named, else a multiple of tp cp pp and of ep etp pp (which may fold over the same ranks: `tp2ep2` also runs on 2).
/// It says which division fails, and near layouts that such a world can have: with another size of one axis, or of two.
std::string world_fault(const Layout& layout, int num_ranks);
/// Throws that as a UsageError.
void check_world(const Layout& layout, int num_ranks);

/// How tokens go to the ranks of their experts (expert_comm.h): to each at once, or first, once, to one rank of each
/// node. Auto: by two levels where the group spans several nodes and one of them has several of its ranks.
enum class ExpertExchange : std::uint8_t { Auto, Flat, TwoLevel };

/// The nodes that a group's ranks are on, where they make a difference.
struct ExpertNodes {
  std::vector<int> of;              // by rank of the group: equal on one node; empty: no difference
  std::shared_ptr<WorldComm> here;  // the group's ranks on this rank's node, in its order
};

/// The ways from each stage to its neighbour in the ring of stages. Of two that meet in a stage each is a group of its
/// own: between GPUs the operations of a group follow each other, and a stage that took what comes behind what it sends
/// would wait for itself round the ring.
class RingWays {
 public:
  /// Collective: groups of the ranks of `color` in the world, which are the stages, in its order.
  RingWays(WorldComm& world, int color, int num_stages, std::string_view name);
  WorldComm& of(int sender) const { return *groups_.at(number_of(sender)); }

 private:
  /// By turns; an odd ring's last meets both.
  std::size_t number_of(int sender) const {
    return sender + 1 == num_stages_ && num_stages_ % 2 == 1 ? 2 : static_cast<std::size_t>(sender % 2);
  }

  int num_stages_;
  std::vector<std::shared_ptr<WorldComm>> groups_;
};

/// Of streams to the next stage, of gradients to the one before, and of what the last stage tells others, none of which
/// waits for another.
struct PipelineWays {
  RingWays streams, gradients;
  std::shared_ptr<WorldComm> taught;
};

/// A rank's place along an axis.
struct Axis {
  int rank = 0;
  int size = 1;
};

class Mesh {
 public:
  /// Every rank of `world` constructs its mesh at the same point.
  Mesh(std::shared_ptr<WorldComm> world, const Layout& layout, ExpertExchange exchange = ExpertExchange::Auto);

  WorldComm& world() const { return *world_; }
  WorldComm& pp() const { return *pp_; }        // ranks with the same place in each stage of the pipeline, by stage
  WorldComm& stage() const { return *stage_; }  // consecutive ranks that hold the same layers
  WorldComm& dp() const { return *dp_; }        // ranks of a stage with different sequences, `cp * tp` apart
  WorldComm& cp() const { return *cp_; }        // ranks with other tokens of the same sequences, `tp` apart
  WorldComm& data() const { return *data_; }    // dp x cp: ranks of a stage with different tokens
  WorldComm& tp() const { return *tp_; }        // consecutive ranks with the same tokens, over which tensors are cut
  WorldComm& edp() const { return *edp_; }      // ranks that hold the same part of the experts, `ep * etp` apart
  WorldComm& experts() const { return *experts_; }  // consecutive ranks that hold all experts together, by ep, then etp
  Axis ep() const { return {experts_->rank() / etp_, experts_->size() / etp_}; }  // whole experts are dealt along it
  Axis etp() const { return {experts_->rank() % etp_, etp_}; }                    // each expert is cut along it
  /// The ranks along an axis that cuts within tensors, "tp" or "etp", as placements name it; throws for another.
  WorldComm& along(std::string_view axis) const;
  std::shared_ptr<WorldComm> data_group() const { return data_; }
  std::shared_ptr<WorldComm> cp_group() const { return cp_; }
  std::shared_ptr<WorldComm> pp_group() const { return pp_; }
  std::shared_ptr<const PipelineWays> pp_ways() const { return pp_ways_; }  // null of one stage
  std::shared_ptr<WorldComm> tp_group() const { return tp_; }
  std::shared_ptr<WorldComm> experts_group() const { return experts_; }
  const ExpertNodes& expert_nodes() const { return expert_nodes_; }
  const Layout& layout() const { return layout_; }

 private:
  Layout layout_;
  int etp_;
  std::shared_ptr<WorldComm> world_, stage_, pp_;
  std::shared_ptr<const PipelineWays> pp_ways_;
  std::shared_ptr<WorldComm> data_, dp_, cp_, tp_, edp_, experts_, etp_group_;
  ExpertNodes expert_nodes_;
};

/// Fills placement and first_replica. A dense parameter is cut over tp as `cut` says, or whole on every rank with equal
/// gradients over tp (partial ones where it sees a share of the tokens); its gradient is partial over dp and cp. An
/// expert parameter [E,...] (experts stacked) is cut along E over ep and within over etp, its gradient partial over
/// edp. Parts may be uneven and empty.
void place(core::Parameter& parameter, const Mesh& mesh, const core::Cut& cut);

}  // namespace limbeck::parallel
