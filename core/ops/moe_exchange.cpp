#include "core/ops/moe_exchange.h"

namespace limbeck::core {

Var dispatch(Tape& tape, const Var& rows, nn::ExpertComm& comm, const nn::ExchangePtr& exchange) {
  Var out = tape.output(comm.dispatch_rows(*exchange, rows.value), {&rows});
  if (out.slot)
    tape.push({"dispatch", {rows.slot}, [=, &comm, slot = out.slot, like = outline(out.value), to = rows.slot] {
                 accumulate(to, comm.combine_rows(*exchange, gradient(slot, like)));
               }});
  return out;
}

Var combine(Tape& tape, const Var& rows, nn::ExpertComm& comm, const nn::ExchangePtr& exchange) {
  Var out = tape.output(comm.combine_rows(*exchange, rows.value), {&rows});
  if (out.slot)
    tape.push({"combine", {rows.slot}, [=, &comm, slot = out.slot, like = outline(out.value), to = rows.slot] {
                 accumulate(to, comm.dispatch_rows(*exchange, gradient(slot, like)));
               }});
  return out;
}

}  // namespace limbeck::core
