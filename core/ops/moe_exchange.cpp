#include "core/ops/moe_exchange.h"

#include <utility>

namespace limbeck::core {
namespace {

void fill(Tape& tape, const Tensor& under_way, const nn::ExpertComm& comm) {
  if (fills_exchanges(*under_way.memory(), comm)) tape.run_weight_parts();
}

}  // namespace

bool fills_exchanges(const Memory& memory, const nn::ExpertComm& comm) {
  return memory.has_queue() && &comm != nn::single_communicators().expert.get();
}

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
                  const Tensor g = gradient(slot, like);
                  *back = comm.start_combine(exchange, g);
                  fill(tape, g, comm);
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
                 const Tensor g = gradient(slot, like);
                 const nn::RowsUnderWay back = comm.start_dispatch(exchange, g);
                 fill(tape, g, comm);
                 accumulate(to, back());
               }});
  return out;
}

}  // namespace limbeck::core
