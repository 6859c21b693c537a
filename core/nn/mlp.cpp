#include "core/nn/mlp.h"

#include "core/nn/stream.h"
#include "core/ops/gelu.h"
#include "core/ops/linear.h"
#include "core/ops/swiglu.h"

namespace limbeck::nn {

using core::as_var;

Var Mlp::forward(Tape& tape, const Pass& pass, const Var& x) const {
  const Var entered = enter_stream(tape, pass, x);
  const auto projected = [&](const Parameter& weight, const Parameter* bias) {
    return core::linear(tape, entered, as_var(weight), pass.products, core::as_optional_var(bias));
  };
  const Var risen = projected(*up, up_bias);
  const Var hidden = gate != nullptr
                         ? core::swiglu(tape, projected(*gate, gate_bias), risen, activation, activation_limit)
                         : core::gelu(tape, risen, activation);
  end_of_reads(tape, pass, entered, x);
  if (pass.inside && !tape.is_replay()) pass.inside(Inside::Neurons, hidden.value);
  return exit_stream(tape, pass, core::linear(tape, hidden, as_var(*down), pass.products), down_bias);
}

}  // namespace limbeck::nn
