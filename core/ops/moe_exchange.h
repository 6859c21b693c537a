// Rows on their way to the ranks that hold their experts, and back: differentiable forms of nn::ExpertComm. The
// backward of dispatch is a combine, and the other way round.
//
//     Tensor offsets = Tensor::empty(memory, DType::I64, {num_local_experts + 1});
//     nn::ExchangePtr exchange = comm.prepare(permutation.counts, offsets);
//     Var mine = dispatch(tape, rows, comm, exchange);           // rows of this rank's experts
//     Var back = combine(tape, experts(mine), comm, exchange);
//
// In the backward, weight parts that were delayed run while rows are under way, where that saves time. Every rank calls
// these equally often and in the same order, forward and backward: the steps are pushed also with zero rows. The
// communicator outlives the tape.
#pragma once

#include <memory>

#include "core/communicators.h"
#include "core/tape.h"

namespace limbeck::core {

/// Whether weights' gradients are best made while rows are under way: between GPUs. A CPU has nothing beside them, and
/// leaves what was delayed to whoever delayed it.
bool fills_exchanges(const Memory& memory, const nn::ExpertComm& comm);

Var dispatch(Tape& tape, const Var& rows /*[N,C]*/, nn::ExpertComm& comm, const nn::ExchangePtr& exchange);
Var combine(Tape& tape, const Var& rows /*[R,C]*/, nn::ExpertComm& comm, const nn::ExchangePtr& exchange);

/// A dispatch in two halves. What is computed between them goes on beside the exchange, and so does, in the backward,
/// its gradient beside the way back.
///
///     DispatchUnderWay there(tape, rows, comm, exchange);
///     Var beside = shared_experts(tape, x);
///     Var mine = there.finish();
class DispatchUnderWay {
 public:
  DispatchUnderWay(Tape& tape, const Var& rows /*[N,C]*/, nn::ExpertComm& comm, const nn::ExchangePtr& exchange);
  Var finish();  // once

 private:
  Tape& tape_;
  Var rows_;
  nn::ExpertComm& comm_;
  nn::ExchangePtr exchange_;
  nn::RowsUnderWay there_;
  std::shared_ptr<nn::RowsUnderWay> back_;
};

}  // namespace limbeck::core
