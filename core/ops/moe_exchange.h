// Tokens on their way to the ranks that hold their experts, and back: differentiable forms of nn::ExpertComm. The
// backward of dispatch is a combine, and the other way round.
//
//     nn::ExchangePtr exchange = comm.prepare(selection, num_experts);
//     Var here = dispatch(tape, x, comm, exchange);              // tokens that have a choice among this rank's experts
//     Var y = combine(tape, experts(here), comm, exchange);      // of each token, what all ranks made of it
//
// In the backward, weight parts that were delayed run while tokens are under way, where that saves time. Every rank calls
// these equally often and in the same order, forward and backward: the steps are pushed also without tokens. The
// communicator outlives the tape.
#pragma once

#include <memory>

#include "core/communicators.h"
#include "core/tape.h"

namespace limbeck::core {

/// Whether weights' gradients are best made while tokens are under way: between GPUs. A CPU has nothing beside them, and
/// leaves what was delayed to whoever delayed it.
bool fills_exchanges(const Memory& memory, const nn::ExpertComm& comm);

Var dispatch(Tape& tape, const Var& x /*[T,C]*/, nn::ExpertComm& comm, const nn::ExchangePtr& exchange);
Var combine(Tape& tape, const Var& y /*[U,C]*/, nn::ExpertComm& comm, const nn::ExchangePtr& exchange);

/// A dispatch in two halves. What is computed between them goes on beside the exchange, and so does, in the backward,
/// its gradient beside the way back.
///
///     DispatchUnderWay there(tape, x, comm, exchange);
///     Var beside = shared_experts(tape, x);
///     Var here = there.finish();
class DispatchUnderWay {
 public:
  DispatchUnderWay(Tape& tape, const Var& x /*[T,C]*/, nn::ExpertComm& comm, const nn::ExchangePtr& exchange);
  Var finish();  // once

 private:
  Tape& tape_;
  Var x_;
  nn::ExpertComm& comm_;
  nn::ExchangePtr exchange_;
  nn::RowsUnderWay there_;
  std::shared_ptr<nn::RowsUnderWay> back_;
};

}  // namespace limbeck::core
