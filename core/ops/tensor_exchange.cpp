#include "core/ops/tensor_exchange.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/slice.h"

namespace limbeck::core {
namespace {

/// The sum over the ranks, in place where the caller gave the only reference.
nn::RowsUnderWay start_sum(Tensor x, nn::TensorComm& comm) {
  return comm.start_sum(x.is_sole_owner() ? std::move(x) : x.clone());
}

/// What exit gives of x, once the ranks' parts are added.
Var with_exit(Tape& tape, const Var& x, Tensor sum) {
  Var out = tape.output(std::move(sum), {&x});
  if (out.slot)
    tape.push({"exit", {x.slot}, [slot = out.slot, like = outline(out.value), to = x.slot] {
                 accumulate(to, gradient(slot, like));
               }});
  return out;
}

/// What exit_sequence gives of x [num_rows,...], likewise.
Var with_exit_sequence(Tape& tape, const Var& x, std::int64_t num_rows, Tensor share, nn::TensorComm& comm) {
  Var out = tape.output(std::move(share), {&x});
  if (out.slot)
    tape.push({"exit_sequence", {x.slot}, [&comm, slot = out.slot, like = outline(out.value), to = x.slot, num_rows] {
                 accumulate(to, comm.gather(gradient(slot, like), 0, num_rows));
               }});
  return out;
}

/// What enter_sequence gives, once the rows of all ranks are here.
Var with_enter_sequence(Tape& tape, const Var& rows, Tensor whole, nn::TensorComm& comm) {
  Var out = tape.output(std::move(whole), {&rows});
  if (out.slot)
    tape.push(
        {"enter_sequence", {rows.slot}, [&tape, &comm, slot = out.slot, like = outline(out.value), to = rows.slot] {
           const nn::RowsUnderWay share = comm.start_sum_share(gradient(slot, like));
           tape.fill_wait();
           accumulate(to, share());
         }});
  return out;
}

/// Of each rank's share of x [T,in] the rows of a run, rank by rank; zeros behind the end of a share.
Tensor run_of_shares(const Tensor& x, const Slice& run, std::int64_t ranks) {
  const std::int64_t num_rows = x.shape()[0];
  const Shape shape{ranks * run.count, x.shape()[1]};
  Tensor rows =
      num_rows % ranks == 0 ? Tensor::empty(x.memory(), x.dtype(), shape) : Tensor::zeros(x.memory(), x.dtype(), shape);
  for (std::int64_t r = 0; r < ranks; ++r) {
    const Slice share = slice_of(num_rows, r, ranks);
    const std::int64_t count = std::min(run.count, share.count - run.first);
    rows.rows(r * run.count, count).copy_from(x.rows(share.first + run.first, count));
  }
  return rows;
}

/// Its transpose: the rows of a run go to their places in x [T,...].
void put_run(const Tensor& rows, const Slice& run, std::int64_t ranks, const Tensor& x) {
  for (std::int64_t r = 0; r < ranks; ++r) {
    const Slice share = slice_of(x.shape()[0], r, ranks);
    const std::int64_t count = std::min(run.count, share.count - run.first);
    x.rows(share.first + run.first, count).copy_from(rows.rows(r * run.count, count));
  }
}

/// The rows of a run of one share [T_local,in]; zeros behind its end.
Tensor run_of_share(const Tensor& share, const Slice& run) {
  const std::int64_t count = std::min(run.count, share.shape()[0] - run.first);
  if (count == run.count) return share.rows(run.first, count);
  const Tensor rows = Tensor::zeros(share.memory(), share.dtype(), {run.count, share.shape()[1]});
  rows.rows(0, count).copy_from(share.rows(run.first, count));
  return rows;
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
  Tensor sum = start_sum(std::move(x.value), comm)();
  return with_exit(tape, x, std::move(sum));
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
  return with_enter_sequence(tape, rows, comm.gather(rows.value, 0, num_rows), comm);
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
  return with_exit_sequence(tape, x, x.shape()[0], comm.sum_share(x.value), comm);
}

std::vector<Var> enter_sequence_linear(Tape& tape, const Var& rows, std::int64_t num_rows, std::span<const Var> weights,
                                       Products products, nn::TensorComm& comm, std::int64_t chunks) {
  const std::int64_t ranks = comm.size(), longest = (num_rows + ranks - 1) / ranks, parts = std::min(chunks, longest);
  std::vector<Var> made;
  if (ranks == 1 || parts <= 1) {
    const Var entered = enter_sequence(tape, rows, num_rows, comm);
    for (const Var& weight : weights) made.push_back(linear(tape, entered, weight, products));
    gather_again(tape, entered, rows, comm);
    return made;
  }
  const Tensor& share = rows.value;
  const std::int64_t mine = slice_of(num_rows, comm.rank(), ranks).count;
  check(share.shape().rank() == 2 && share.shape()[0] == mine, "enter_sequence: rows are {}, expected [{},in] of {}",
        share.shape(), mine, num_rows);
  const auto empty = [&](std::int64_t count, std::int64_t width) {
    return Tensor::empty(share.memory(), share.dtype(), {count, width});
  };
  const auto start = [&](std::int64_t i) {
    const Slice run = slice_of(longest, i, parts);
    return comm.start_gather(run_of_share(share, run), 0, ranks * run.count);
  };
  // A replay alone reads the whole; else gather_again would free it before anybody has, so that its shape is enough.
  Tensor whole = empty(num_rows, share.shape()[1]);
  if (!tape.is_replay()) whole.storage()->release();
  std::vector<Tensor> values;
  for (const Var& weight : weights) values.push_back(empty(num_rows, weight.shape()[0]));
  nn::RowsUnderWay next = start(0);
  for (std::int64_t i = 0; i < parts; ++i) {
    const Slice run = slice_of(longest, i, parts);
    const nn::RowsUnderWay arriving = std::exchange(next, i + 1 < parts ? start(i + 1) : nullptr);
    const Tensor gathered = arriving();
    if (tape.is_replay()) put_run(gathered, run, ranks, whole);
    for (std::size_t w = 0; w < weights.size(); ++w) {
      const Tensor product = empty(ranks * run.count, weights[w].shape()[0]);
      linear_rows(gathered, weights[w].value, products, product);
      put_run(product, run, ranks, values[w]);
    }
  }
  const Var entered = with_enter_sequence(tape, rows, std::move(whole), comm);
  for (std::size_t w = 0; w < weights.size(); ++w) {
    made.push_back(tape.output(values[w], {&entered, &weights[w]}));
    if (made[w].slot) push_linear(tape, entered, weights[w], products, made[w].slot, values[w]);
  }
  gather_again(tape, entered, rows, comm);
  return made;
}

Var linear_exit(Tape& tape, const Var& x, const Var& weight, Products products, nn::TensorComm& comm,
                std::int64_t chunks) {
  const std::int64_t num_rows = x.shape()[0], parts = std::min(chunks, num_rows);
  if (comm.size() == 1 || parts <= 1) return exit(tape, linear(tape, x, weight, products), comm);
  const Tensor y = Tensor::empty(x.value.memory(), x.value.dtype(), {num_rows, weight.shape()[0]});
  std::vector<nn::RowsUnderWay> sums;
  for (std::int64_t i = 0; i < parts; ++i) {
    const Slice run = slice_of(num_rows, i, parts);
    const Tensor made = y.rows(run.first, run.count);
    linear_rows(x.value.rows(run.first, run.count), weight.value, products, made);
    sums.push_back(comm.start_sum(made));
  }
  for (const nn::RowsUnderWay& sum : sums) sum();
  const Var product = tape.output(y, {&x, &weight});  // by now the sum, which nobody writes any more
  if (product.slot) push_linear(tape, x, weight, products, product.slot, y);
  return with_exit(tape, product, y);
}

Var linear_exit_sequence(Tape& tape, const Var& x, const Var& weight, Products products, nn::TensorComm& comm,
                         std::int64_t chunks) {
  const std::int64_t num_rows = x.shape()[0], ranks = comm.size(), longest = (num_rows + ranks - 1) / ranks,
                     parts = std::min(chunks, longest);
  if (ranks == 1 || parts <= 1) return exit_sequence(tape, linear(tape, x, weight, products), comm);
  const Tensor y =
      Tensor::empty(x.value.memory(), x.value.dtype(), {ranks * longest, weight.shape()[0]});  // run by run
  std::vector<nn::RowsUnderWay> sums;
  for (std::int64_t i = 0; i < parts; ++i) {
    const Slice run = slice_of(longest, i, parts);
    const Tensor made = y.rows(ranks * run.first, ranks * run.count);
    linear_rows(run_of_shares(x.value, run, ranks), weight.value, products, made);
    sums.push_back(comm.start_sum_share(made));
  }
  const std::int64_t mine = slice_of(num_rows, comm.rank(), ranks).count;
  const Tensor share = Tensor::empty(y.memory(), y.dtype(), {mine, weight.shape()[0]});
  for (std::int64_t i = 0; i < parts; ++i) {
    const Slice run = slice_of(longest, i, parts);
    const std::int64_t count = std::min(run.count, mine - run.first);
    const Tensor sum = sums[static_cast<std::size_t>(i)]();
    share.rows(run.first, count).copy_from(sum.rows(0, count));
  }
  const Var product = tape.output(y, {&x, &weight});
  if (product.slot) push_linear(tape, x, weight, products, product.slot, y.rows(0, num_rows));
  return with_exit_sequence(tape, product, num_rows, share, comm);
}

}  // namespace limbeck::core
