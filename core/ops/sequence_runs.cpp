#include "core/ops/sequence_runs.h"

#include "kernels/embedding.h"

namespace limbeck::core {
namespace {

/// Rows of `table` [N,C] by number, zeros for -1: [n,C].
Tensor rows_by_number(const Tensor& table, const Tensor& numbers) {
  const std::int64_t count = numbers.numel(), width = table.shape()[1];
  Tensor rows = Tensor::empty(table.memory(), table.dtype(), {count, width});
  dispatch_activation("rows_before", table.dtype(), [&]<class T>() {
    on_device(rows, [&](const auto& device) {
      kernels::embedding(device, numbers.data<std::int32_t>(), table.data<T>(), rows.mutable_data<T>(), count, width, 0,
                         table.shape()[0]);
    });
  });
  return rows;
}

/// [N,C]: the sums of the rows that have each number, added in their order.
Tensor sums_by_number(const Tensor& rows, const Tensor& numbers, std::int64_t count) {
  const std::int64_t width = rows.shape()[1];
  Tensor sums = Tensor::empty(rows.memory(), sum_dtype(rows.dtype()), {count, width});
  dispatch_activation("rows_before", rows.dtype(), [&]<class T>() {
    on_device(rows, [&](const auto& device) {
      kernels::embedding_gradient(device, numbers.data<std::int32_t>(), rows.data<T>(), /*add=*/false,
                                  sums.mutable_data<kernels::Acc<T>>(), numbers.numel(), width, 0, count);
    });
  });
  return sums;
}

}  // namespace

Var rows_before(Tape& tape, const Var& x, const SequenceRuns& runs, std::int64_t tokens, nn::ContextComm& comm) {
  const std::int64_t own = runs.number(), all = own * comm.size(), width = x.shape()[1], length = x.shape()[0];
  const Tensor tails = SequenceRuns::for_tokens(runs.tails, tokens, own);
  const Tensor places = SequenceRuns::for_tokens(runs.places, tokens, all);
  const Tensor readers = SequenceRuns::for_tokens(runs.readers, tokens, all);
  const Tensor ends = comm.gather(rows_by_number(x.value, tails));
  const Tensor before = rows_by_number(ends, places.rows(comm.rank() * own * tokens, own * tokens));
  Var out = tape.output(before.reshape({own, tokens, width}), {&x});
  if (!out.slot) return out;
  tape.push({"rows_before", {x.slot}, [=, &comm, slot = out.slot, like = outline(out.value), to = x.slot] {
               const Tensor given = comm.gather(gradient(slot, like).reshape({own * tokens, width}));
               const Tensor dx = sums_by_number(given, readers, length);
               accumulate(to, dx.dtype() == like.dtype() ? dx : dx.to(like.dtype()));
             }});
  return out;
}

}  // namespace limbeck::core
