// Experts that change places on the ranks among which they are dealt, and with them what is kept of each. Every rank
// has as many afterwards as before: those of its slice (core/slice.h), which may be none.
//
//     ExpertMoves moves(mesh, /*sharers=*/1);
//     moves.move(weights, weights.shape(), /*is_dealt=*/false, {3, 1, 2, 0});    // the first and the last of four
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/tensor.h"
#include "parallel/axes/mesh.h"

namespace limbeck::parallel {

class ExpertMoves {
 public:
  /// Collective over a stage. `sharers`: the neighbours along edp among which what is dealt of a stack is dealt
  /// (gradient_groups.h); 1: nothing is.
  ExpertMoves(const Mesh& mesh, int sharers);

  /// Collective over those who hold the same parts of all experts. `kept` has of this rank's stack [E_local,...], of
  /// which only E_local is another on other ranks, all elements, or where it `is_dealt` this rank's share of them
  /// (core/share.h). What is kept of the expert at from[i], of E, comes to place i, counted in the order of ep.
  void move(const core::Tensor& kept, const core::Shape& stack, bool is_dealt,
            std::span<const std::int64_t> from) const;

 private:
  int num_parts_;                     // ep
  std::shared_ptr<WorldComm> group_;  // rank: share * ep + part
};

}  // namespace limbeck::parallel
