#include "core/nn/mlp.h"

#include "core/nn/projected.h"
#include "core/nn/stream.h"
#include "core/ops/gelu.h"
#include "core/ops/swiglu.h"

namespace limbeck::nn {

Var Mlp::forward(Tape& tape, const Pass& pass, const Var& x) const {
  const Var entered = enter_stream(tape, pass, x);
  const Var risen = projected(tape, pass, entered, *up, up_bias);
  const Var hidden = gate != nullptr ? core::swiglu(tape, projected(tape, pass, entered, *gate, gate_bias), risen,
                                                    activation, activation_limit)
                                     : core::gelu(tape, risen, activation);
  end_of_reads(tape, pass, entered, x);
  if (pass.inside && !tape.is_replay()) pass.inside(Inside::Neurons, hidden.value);
  return exit_projected(tape, pass, hidden, *down, down_bias);
}

}  // namespace limbeck::nn
