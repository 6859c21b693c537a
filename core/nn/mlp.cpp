#include "core/nn/mlp.h"

#include "core/nn/stream.h"
#include "core/ops/linear.h"
#include "core/ops/swiglu.h"

namespace limbeck::nn {
namespace {

using core::as_var;

}  // namespace

Var Mlp::forward(Tape& tape, const Pass& pass, const Var& x) const {
  const Var entered = enter_stream(tape, pass, x);
  const Var hidden = core::swiglu(tape, core::linear(tape, entered, as_var(*gate), pass.products),
                                  core::linear(tape, entered, as_var(*up), pass.products), activation);
  end_of_reads(tape, pass, entered, x);
  return exit_stream(tape, pass, core::linear(tape, hidden, as_var(*down), pass.products));
}

}  // namespace limbeck::nn
