// Tokens on their way to the ranks that hold their experts, and back: differentiable forms of nn::ExpertComm. The
// backward of dispatch is a combine, and the other way round.
//
//     nn::ExchangePtr exchange = comm.prepare(selection, num_experts);
//     Var here = dispatch(tape, x, comm, exchange);              // tokens that have a choice among this rank's experts
//     Var y = combine(tape, experts(here), comm, exchange);      // of each token, what all ranks made of it
//
// In the backward, weight parts that are queued for it run while tokens are under way (Tape::fill_wait). Every rank
// calls these equally often and in the same order, forward and backward: the steps are pushed also without tokens. The
// communicator outlives the tape.
#pragma once

#include <memory>
#include <string_view>

#include "core/communicators.h"
#include "core/tape.h"

namespace limbeck::core {

Var dispatch(Tape& tape, const Var& x /*[T,C]*/, nn::ExpertComm& comm, const nn::ExchangePtr& exchange);
Var combine(Tape& tape, const Var& y /*[U,C]*/, nn::ExpertComm& comm, const nn::ExchangePtr& exchange);

/// An exchange in two halves. What is computed between them goes on beside it, and so does, in the backward, its
/// gradient beside the exchange the other way.
class ExchangeUnderWay {
 public:
  Var finish();  // once

 protected:
  using Start = nn::RowsUnderWay (nn::ExpertComm::*)(const nn::ExchangePtr& exchange, const Tensor& x);
  ExchangeUnderWay(std::string_view op, Start start, Start start_gradient, Tape& tape, const Var& x,
                   nn::ExpertComm& comm, const nn::ExchangePtr& exchange);

 private:
  std::string_view op_;
  Start start_gradient_;
  Tape& tape_;
  Var x_;  // without its value
  nn::ExpertComm& comm_;
  nn::ExchangePtr exchange_;
  nn::RowsUnderWay rows_;
  std::shared_ptr<nn::RowsUnderWay> gradient_;
};

///     DispatchUnderWay there(tape, x, comm, exchange);
///     Var beside = shared_experts(tape, x);
///     Var here = there.finish();
class DispatchUnderWay : public ExchangeUnderWay {
 public:
  DispatchUnderWay(Tape& tape, const Var& x /*[T,C]*/, nn::ExpertComm& comm, const nn::ExchangePtr& exchange)
      : ExchangeUnderWay("dispatch", &nn::ExpertComm::start_dispatch, &nn::ExpertComm::start_combine, tape, x, comm,
                         exchange) {}
};

class CombineUnderWay : public ExchangeUnderWay {
 public:
  CombineUnderWay(Tape& tape, const Var& y /*[U,C]*/, nn::ExpertComm& comm, const nn::ExchangePtr& exchange)
      : ExchangeUnderWay("combine", &nn::ExpertComm::start_combine, &nn::ExpertComm::start_dispatch, tape, y, comm,
                         exchange) {}
};

}  // namespace limbeck::core
