// Rows on their way to the ranks that hold their experts, and back: differentiable forms of nn::ExpertComm. The
// backward of dispatch is a combine, and the other way round.
//
//     Tensor offsets = Tensor::empty(memory, DType::I64, {num_local_experts + 1});
//     nn::ExchangePtr exchange = comm.prepare(permutation.counts, offsets);
//     Var mine = dispatch(tape, rows, comm, exchange);           // rows of this rank's experts
//     Var back = combine(tape, experts(mine), comm, exchange);
//
// Every rank calls these equally often and in the same order, forward and backward: the step is pushed also with zero
// rows. The communicator outlives the tape.
#pragma once

#include "core/communicators.h"
#include "core/tape.h"

namespace limbeck::core {

Var dispatch(Tape& tape, const Var& rows /*[N,C]*/, nn::ExpertComm& comm, const nn::ExchangePtr& exchange);
Var combine(Tape& tape, const Var& rows /*[R,C]*/, nn::ExpertComm& comm, const nn::ExchangePtr& exchange);

}  // namespace limbeck::core
