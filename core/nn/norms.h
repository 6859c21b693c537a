// How the norms of a model are computed.
#pragma once

#include "core/ops/offset.h"
#include "core/ops/rms_norm.h"

namespace limbeck::nn {

struct Norms {
  double eps = 1e-5;
  double offset = 0;  // of the weights

  /// The weight that norms multiply by.
  core::Var weight(core::Tape& tape, const core::Parameter& parameter) const {
    const core::Var own = core::as_var(parameter);
    return offset == 0 ? own : core::offset(tape, own, offset);
  }
  core::Var normed(core::Tape& tape, const core::Var& x, const core::Parameter& parameter) const {
    return core::rms_norm(tape, x, weight(tape, parameter), eps);
  }
};

}  // namespace limbeck::nn
