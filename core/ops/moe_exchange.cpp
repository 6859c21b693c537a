#include "core/ops/moe_exchange.h"

#include <utility>

namespace limbeck::core {

DispatchUnderWay::DispatchUnderWay(Tape& tape, const Var& x, nn::ExpertComm& comm, const nn::ExchangePtr& exchange)
    : tape_(tape),
      x_(x),
      comm_(comm),
      exchange_(exchange),
      there_(comm.start_dispatch(exchange, x.value)),
      back_(std::make_shared<nn::RowsUnderWay>()) {
  if (x.slot)
    tape.push({"dispatch", {x.slot}, [back = back_, to = x.slot] { accumulate(to, std::exchange(*back, {})()); }});
}

Var DispatchUnderWay::finish() {
  Var out = tape_.output(std::exchange(there_, {})(), {&x_});
  if (out.slot)
    tape_.push({"dispatch",
                {},
                [&tape = tape_, &comm = comm_, exchange = exchange_, back = back_, slot = out.slot,
                 like = outline(out.value)] {
                  *back = comm.start_combine(exchange, gradient(slot, like));
                  tape.run_weight_parts();
                }});
  return out;
}

Var dispatch(Tape& tape, const Var& x, nn::ExpertComm& comm, const nn::ExchangePtr& exchange) {
  return DispatchUnderWay(tape, x, comm, exchange).finish();
}

Var combine(Tape& tape, const Var& y, nn::ExpertComm& comm, const nn::ExchangePtr& exchange) {
  Var out = tape.output(comm.combine_rows(exchange, y.value), {&y});
  if (out.slot)
    tape.push({"combine", {y.slot}, [=, &tape, &comm, slot = out.slot, like = outline(out.value), to = y.slot] {
                 const nn::RowsUnderWay back = comm.start_dispatch(exchange, gradient(slot, like));
                 tape.run_weight_parts();
                 accumulate(to, back());
               }});
  return out;
}

}  // namespace limbeck::core
