// The residual stream on its way through the layers of a model. What a block gives waits for the norm that reads the
// stream next, so that adding and norming are one pass over memory.
//
//     ResidualStream stream(embedded);                                            // [T,C]
//     stream.add(attention.forward(tape, pass, stream.normed(tape, as_var(*norm), eps, compute), n));
//     stream.add(mlp.forward(tape, pass, stream.normed(tape, as_var(*next_norm), eps, compute)));
//     Var hidden = stream.normed(tape, as_var(*last_norm), eps, compute);         // or stream.sum(tape)
#pragma once

#include <utility>

#include "core/ops/add.h"
#include "core/ops/add_rms_norm.h"
#include "core/ops/rms_norm.h"

namespace limbeck::nn {

class ResidualStream {
 public:
  explicit ResidualStream(core::Var x) : sum_(std::move(x)) {}

  /// Adds what a block gave, [T,C] as the stream; the one before must have been read.
  void add(core::Var update) {
    core::check(!waiting_.value.defined(), "residual stream: an update waits, expected it to be read before the next");
    waiting_ = std::move(update);
  }

  /// The stream's norm, [T,C] of a dtype: that of the updates.
  core::Var normed(core::Tape& tape, const core::Var& weight, double eps, core::DType dtype) {
    if (!waiting_.value.defined()) return core::rms_norm(tape, sum_, weight, eps, dtype);
    core::NormedSum next = core::add_rms_norm(tape, sum_, std::exchange(waiting_, {}), weight, eps);
    sum_ = std::move(next.sum);
    return std::move(next.normed);
  }

  /// All that was added.
  const core::Var& sum(core::Tape& tape) {
    if (waiting_.value.defined()) sum_ = core::add(tape, sum_, std::exchange(waiting_, {}));
    return sum_;
  }

 private:
  core::Var sum_, waiting_;
};

}  // namespace limbeck::nn
