#include "core/ops/tensor_exchange.h"

#include <utility>

#include "core/slice.h"

namespace limbeck::core {
namespace {

/// The sum over the ranks, in place where the caller gave the only reference.
nn::RowsUnderWay start_sum(Tensor x, nn::TensorComm& comm) {
  return comm.start_sum(x.is_sole_owner() ? std::move(x) : x.clone());
}

}  // namespace

Var enter(Tape& tape, const Var& x, nn::TensorComm& comm) {
  if (comm.size() == 1) return x;
  Var out = tape.output(x.value, {&x});
  if (out.slot)
    tape.push({"enter", {x.slot}, [&tape, &comm, slot = out.slot, like = outline(x.value), to = x.slot] {
                 gradient(slot, like);
                 const nn::RowsUnderWay sum = start_sum(std::move(slot->grad), comm);
                 tape.fill_wait();
                 accumulate(to, sum());
               }});
  return out;
}

Var exit(Tape& tape, Var x, nn::TensorComm& comm) {
  if (comm.size() == 1) return x;
  Var out = tape.output(Tensor(), {&x});
  out.value = start_sum(std::move(x.value), comm)();
  if (out.slot)
    tape.push({"exit", {x.slot}, [slot = out.slot, like = outline(out.value), to = x.slot] {
                 accumulate(to, gradient(slot, like));
               }});
  return out;
}

Tensor scatter(const Tensor& x, const nn::TensorComm& comm) {
  const Slice mine = slice_of(x.shape()[0], comm.rank(), comm.size());
  return x.rows(mine.first, mine.count);
}

Var scatter(Tape& tape, const Var& x, nn::TensorComm& comm) {
  if (comm.size() == 1) return x;
  Var out = tape.output(scatter(x.value, comm), {&x});
  if (out.slot)
    tape.push({"scatter",
               {x.slot},
               [&comm, slot = out.slot, like = outline(out.value), to = x.slot, num_rows = x.shape()[0]] {
                 accumulate(to, comm.gather(gradient(slot, like), 0, num_rows));
               }});
  return out;
}

Var gather(Tape& tape, const Var& rows, std::int64_t num_rows, nn::TensorComm& comm) {
  if (comm.size() == 1) return rows;
  Var out = tape.output(comm.gather(rows.value, 0, num_rows), {&rows});
  if (out.slot)
    tape.push({"gather", {rows.slot}, [&comm, slot = out.slot, like = outline(out.value), to = rows.slot] {
                 accumulate(to, scatter(gradient(slot, like), comm));
               }});
  return out;
}

Var enter_sequence(Tape& tape, const Var& rows, std::int64_t num_rows, nn::TensorComm& comm) {
  if (comm.size() == 1) return rows;
  Var out = tape.output(comm.gather(rows.value, 0, num_rows), {&rows});
  if (out.slot)
    tape.push(
        {"enter_sequence", {rows.slot}, [&tape, &comm, slot = out.slot, like = outline(out.value), to = rows.slot] {
           const nn::RowsUnderWay share = comm.start_sum_share(gradient(slot, like));
           tape.fill_wait();
           accumulate(to, share());
         }});
  return out;
}

void gather_again(Tape& tape, const Var& entered, const Var& rows, nn::TensorComm& comm) {
  if (comm.size() == 1 || tape.mode() != Tape::Mode::Record || tape.is_replay()) return;
  if (entered.value.is_sole_owner()) return;  // no step saved it
  entered.value.storage()->release();
  tape.push({"gather_again", {}, [&comm, whole = Saved(entered.value), part = Saved(rows.value)] {
               const Tensor& to = whole.get();
               const Tensor again = comm.gather(part.get(), 0, to.shape()[0]);
               void* bytes = to.storage()->refill();
               on_device(again,
                         [&](const auto& device) { kernels::copy_bytes(device, again.raw(), bytes, again.bytes()); });
             }});
}

Var exit_sequence(Tape& tape, const Var& x, nn::TensorComm& comm) {
  if (comm.size() == 1) return x;
  Var out = tape.output(comm.sum_share(x.value), {&x});
  if (out.slot)
    tape.push({"exit_sequence",
               {x.slot},
               [&comm, slot = out.slot, like = outline(out.value), to = x.slot, num_rows = x.shape()[0]] {
                 accumulate(to, comm.gather(gradient(slot, like), 0, num_rows));
               }});
  return out;
}

}  // namespace limbeck::core
