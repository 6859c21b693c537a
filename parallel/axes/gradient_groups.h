// The ranks that train the same parameters on other data: those that sum their gradients, and among which what all of
// them would hold is dealt (core/share.h).
//
//     GradientGroups groups(mesh, {.what = Sharded::OptimizerState});
//     groups.of(parameter).all->all_reduce(gradient, core::Reduce::Sum);
//     core::share_of(parameter.value.shape(), groups.of(parameter).sharers->rank(), ...);
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "parallel/axes/mesh.h"

namespace limbeck::parallel {

enum class Sharded : std::uint8_t { Nothing, OptimizerState, Gradients, Parameters };

/// What is dealt: of these, each and those before it.
struct Sharding {
  Sharded what = Sharded::Nothing;
  /// Among so many neighbours in the world, such as those of a node, as far as they train the same; 0: all.
  int ranks = 0;
};

/// Whether the first and the last stage of a pipeline both have the parameter.
bool lies_on_both_ends(const core::Parameter& parameter);

class GradientGroups {
 public:
  struct Group {
    std::shared_ptr<WorldComm> all;      // who sums
    std::shared_ptr<WorldComm> sharers;  // neighbours among them, who hold everything together
    std::shared_ptr<WorldComm> twins;    // who has the same share
  };

  /// Collective: they are groups of their own, so that reductions do not stand before other collectives. Throws a
  /// UsageError where neighbours would not be as many everywhere.
  GradientGroups(const Mesh& mesh, const Sharding& sharding);

  /// Dense parameters: dp x cp, or dp x cp x tp where all have parts of the gradient; what both ends of a pipeline
  /// have: dp x cp of its first and last stage; experts: edp.
  const Group& of(const core::Parameter& parameter) const;
  std::size_t index_of(const core::Parameter& parameter) const;
  static constexpr std::size_t count = 4;
  const Group& operator[](std::size_t index) const { return groups_.at(index); }
  const Sharding& sharding() const { return sharding_; }
  bool shares(Sharded what) const { return sharding_.what >= what; }

 private:
  Sharding sharding_;
  std::array<Group, count> groups_;
};

}  // namespace limbeck::parallel
