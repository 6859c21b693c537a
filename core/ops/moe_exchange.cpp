#include "core/ops/moe_exchange.h"

#include <utility>

namespace limbeck::core {

ExchangeUnderWay::ExchangeUnderWay(std::string_view op, Start start, Start start_gradient, Tape& tape, const Var& x,
                                   nn::ExpertComm& comm, const nn::ExchangePtr& exchange)
    : op_(op),
      start_gradient_(start_gradient),
      tape_(tape),
      x_{outline(x.value), x.slot},
      comm_(comm),
      exchange_(exchange),
      rows_((comm.*start)(exchange, x.value)),
      gradient_(std::make_shared<nn::RowsUnderWay>()) {
  if (x.slot)
    tape.push({op, {x.slot}, [&tape, gradient = gradient_, to = x.slot] {
                 tape.fill_wait();
                 accumulate(to, std::exchange(*gradient, {})());
               }});
}

Var ExchangeUnderWay::finish() {
  Var out = tape_.output(std::exchange(rows_, {})(), {&x_});
  if (out.slot)
    tape_.push({op_,
                {},
                [start = start_gradient_, &comm = comm_, exchange = exchange_, under_way = gradient_, slot = out.slot,
                 like = outline(out.value)] { *under_way = (comm.*start)(exchange, gradient(slot, like)); }});
  return out;
}

Var dispatch(Tape& tape, const Var& x, nn::ExpertComm& comm, const nn::ExchangePtr& exchange) {
  return DispatchUnderWay(tape, x, comm, exchange).finish();
}

Var combine(Tape& tape, const Var& y, nn::ExpertComm& comm, const nn::ExchangePtr& exchange) {
  return CombineUnderWay(tape, y, comm, exchange).finish();
}

}  // namespace limbeck::core
