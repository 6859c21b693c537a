#include "core/ops/moe_exchange.h"

#include <utility>

namespace limbeck::core {

DispatchUnderWay::DispatchUnderWay(Tape& tape, const Var& rows, nn::ExpertComm& comm, const nn::ExchangePtr& exchange)
    : tape_(tape),
      rows_(rows),
      comm_(comm),
      exchange_(exchange),
      there_(comm.start_dispatch(exchange, rows.value)),
      back_(std::make_shared<nn::RowsUnderWay>()) {
  if (rows.slot)
    tape.push(
        {"dispatch", {rows.slot}, [back = back_, to = rows.slot] { accumulate(to, std::exchange(*back, {})()); }});
}

Var DispatchUnderWay::finish() {
  Var out = tape_.output(std::exchange(there_, {})(), {&rows_});
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

Var dispatch(Tape& tape, const Var& rows, nn::ExpertComm& comm, const nn::ExchangePtr& exchange) {
  return DispatchUnderWay(tape, rows, comm, exchange).finish();
}

Var combine(Tape& tape, const Var& rows, nn::ExpertComm& comm, const nn::ExchangePtr& exchange) {
  Var out = tape.output(comm.combine_rows(exchange, rows.value), {&rows});
  if (out.slot)
    tape.push({"combine", {rows.slot}, [=, &tape, &comm, slot = out.slot, like = outline(out.value), to = rows.slot] {
                 const nn::RowsUnderWay back = comm.start_dispatch(exchange, gradient(slot, like));
                 tape.run_weight_parts();
                 accumulate(to, back());
               }});
  return out;
}

}  // namespace limbeck::core
