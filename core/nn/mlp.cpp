#include "core/nn/mlp.h"

#include <vector>

#include "core/nn/projected.h"
#include "core/ops/gelu.h"
#include "core/ops/swiglu.h"

namespace limbeck::nn {

Var Mlp::forward(Tape& tape, const Pass& pass, const Var& x) const {
  const Var hidden = [&] {
    std::vector<Projection> projections = {{up, up_bias}};
    if (gate != nullptr) projections.push_back({gate, gate_bias});
    const std::vector<Var> made = enter_projected(tape, pass, x, projections);
    return gate != nullptr ? core::swiglu(tape, made[1], made[0], activation, activation_limit)
                           : core::gelu(tape, made[0], activation);
  }();
  if (pass.inside && !tape.is_replay()) pass.inside(Inside::Neurons, hidden.value);
  return exit_projected(tape, pass, hidden, *down, down_bias);
}

}  // namespace limbeck::nn
