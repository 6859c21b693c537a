#include "core/ops/tensor_exchange.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <string_view>
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

/// Its transpose, once each run is summed, in the order of the tokens.
void put_sums(const std::vector<nn::RowsUnderWay>& sums, std::int64_t longest, const Tensor& share) {
  const auto parts = static_cast<std::int64_t>(sums.size());
  for (std::int64_t i = 0; i < parts; ++i) {
    const Slice run = slice_of(longest, i, parts);
    const std::int64_t count = std::min(run.count, share.shape()[0] - run.first);
    share.rows(run.first, count).copy_from(sums[static_cast<std::size_t>(i)]().rows(0, count));
  }
}

/// Runs of all ranks' shares, as run_of_shares has them: one is on its way here while that before is worked with.
class GatheredRuns {
 public:
  GatheredRuns(Tensor share, std::int64_t longest, std::int64_t parts, nn::TensorComm& comm)
      : share_(std::move(share)), longest_(longest), parts_(parts), comm_(comm), next_(start(0)) {}

  /// f(run, its rows), once.
  template <class F>
  void for_each(F&& f) {
    for (std::int64_t i = 0; i < parts_; ++i) {
      const nn::RowsUnderWay arriving = std::exchange(next_, i + 1 < parts_ ? start(i + 1) : nullptr);
      f(slice_of(longest_, i, parts_), arriving());
    }
  }

 private:
  nn::RowsUnderWay start(std::int64_t i) const {
    const Slice run = slice_of(longest_, i, parts_);
    return comm_.start_gather(run_of_share(share_, run), 0, comm_.size() * run.count);
  }

  Tensor share_;
  std::int64_t longest_, parts_;
  nn::TensorComm& comm_;
  nn::RowsUnderWay next_;
};

std::vector<Var> linear_by_each(Tape& tape, const Var& x, std::span<const Var> weights, Products products) {
  std::vector<Var> made;
  for (const Var& weight : weights) made.push_back(linear(tape, x, weight, products));
  return made;
}

/// Of a product on its way back, the gradient of what it gave [T,out], and its weight.
struct GivesBack {
  SlotPtr slot;
  Tensor like;
  Saved weight;
};

/// Some rows of dx [R,in], of those of each gradient that `rows_of` says: the last product comes first, as on a tape.
template <class RowsOf>
void multiply_back(const std::vector<GivesBack>& made, Products products, RowsOf&& rows_of, const Tensor& dx) {
  double beta = 0;
  for (auto product = made.rbegin(); product != made.rend(); ++product, beta = 1)
    linear_rows_back(rows_of(gradient(product->slot, product->like)), product->weight.get(), products, beta, dx);
}

/// Makes what products give back to x, and has its sum over the ranks on its way.
using StartBack = std::function<nn::RowsUnderWay(const std::vector<GivesBack>&)>;

/// The products of what entered [T,in], of x, once their values are made. Backward `start` comes first, then the
/// gradients of the weights are due, and only then the sum is waited for.
std::vector<Var> with_products(Tape& tape, std::string_view op, const Var& x, const Tensor& entered,
                               std::span<const Var> weights, std::span<const Tensor> values, Products products,
                               const StartBack& start) {
  const auto sum = std::make_shared<nn::RowsUnderWay>();
  if (x.slot)
    tape.push({op, {x.slot}, [&tape, sum, to = x.slot] {
                 tape.fill_wait();
                 accumulate(to, std::exchange(*sum, nullptr)());
               }});
  std::vector<Var> made;
  std::vector<GivesBack> back;
  for (std::size_t w = 0; w < weights.size(); ++w) {
    const Var& y = made.emplace_back(tape.output(values[w], {&x, &weights[w]}));
    if (y.slot && weights[w].slot) push_linear(tape, constant(entered), weights[w], products, y.slot, y.value);
    back.push_back({y.slot, outline(y.value), Saved(weights[w].value)});
  }
  if (x.slot) tape.push({op, {}, [start, sum, back = std::move(back)] { *sum = start(back); }});
  return made;
}

/// A freed tensor has its values again.
void refill(const Tensor& freed, const Tensor& values) {
  void* bytes = freed.storage()->refill();
  on_device(values, [&](const auto& device) { kernels::copy_bytes(device, values.raw(), bytes, values.bytes()); });
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
               refill(to, comm.gather(part.get(), 0, to.shape()[0]));
             }});
}

Var exit_sequence(Tape& tape, const Var& x, nn::TensorComm& comm) {
  if (comm.size() == 1) return x;
  return with_exit_sequence(tape, x, x.shape()[0], comm.sum_share(x.value), comm);
}

std::vector<Var> enter_linear(Tape& tape, const Var& x, std::span<const Var> weights, Products products,
                              nn::TensorComm& comm, std::int64_t chunks) {
  const std::int64_t num_rows = x.shape()[0], parts = std::min(chunks, num_rows);
  if (comm.size() == 1 || parts <= 1 || !x.slot) return linear_by_each(tape, enter(tape, x, comm), weights, products);
  std::vector<Tensor> values;
  for (const Var& weight : weights) {
    values.push_back(Tensor::empty(x.value.memory(), x.value.dtype(), {num_rows, weight.shape()[0]}));
    linear_rows(x.value, weight.value, products, values.back());
  }
  const auto start = [&comm, products, num_rows, parts, like = outline(x.value)](const std::vector<GivesBack>& made) {
    const Tensor dx = empty_like(like);
    std::vector<nn::RowsUnderWay> sums;
    for (std::int64_t i = 0; i < parts; ++i) {
      const Slice run = slice_of(num_rows, i, parts);
      const Tensor rows = dx.rows(run.first, run.count);
      multiply_back(
          made, products, [&](const Tensor& dy) { return dy.rows(run.first, run.count); }, rows);
      sums.push_back(comm.start_sum(rows));
    }
    return nn::RowsUnderWay([dx, sums = std::move(sums)] {
      for (const nn::RowsUnderWay& sum : sums) sum();
      return dx;
    });
  };
  return with_products(tape, "enter", x, x.value, weights, values, products, start);
}

std::vector<Var> enter_sequence_linear(Tape& tape, const Var& rows, std::int64_t num_rows, std::span<const Var> weights,
                                       Products products, nn::TensorComm& comm, std::int64_t chunks) {
  const std::int64_t ranks = comm.size(), longest = (num_rows + ranks - 1) / ranks, parts = std::min(chunks, longest);
  if (ranks == 1 || parts <= 1) {
    const Var entered = enter_sequence(tape, rows, num_rows, comm);
    std::vector<Var> made = linear_by_each(tape, entered, weights, products);
    gather_again(tape, entered, rows, comm);
    return made;
  }
  const Tensor& share = rows.value;
  const std::int64_t mine = slice_of(num_rows, comm.rank(), ranks).count;
  check(share.shape().rank() == 2 && share.shape()[0] == mine, "enter_sequence: rows are {}, expected [{},in] of {}",
        share.shape(), mine, num_rows);
  const auto empty = [memory = share.memory(), dtype = share.dtype()](std::int64_t count, std::int64_t width) {
    return Tensor::empty(memory, dtype, {count, width});
  };
  // A replay alone reads the whole; else it would be freed before anybody has, so that its shape is enough.
  Tensor whole = empty(num_rows, share.shape()[1]);
  if (!tape.is_replay()) whole.storage()->release();
  std::vector<Tensor> values;
  for (const Var& weight : weights) values.push_back(empty(num_rows, weight.shape()[0]));
  GatheredRuns(share, longest, parts, comm).for_each([&](const Slice& run, const Tensor& gathered) {
    if (tape.is_replay()) put_run(gathered, run, ranks, whole);
    for (std::size_t w = 0; w < weights.size(); ++w) {
      const Tensor product = empty(ranks * run.count, weights[w].shape()[0]);
      linear_rows(gathered, weights[w].value, products, product);
      put_run(product, run, ranks, values[w]);
    }
  });
  // For the gradients of weights, where there are any, it is gathered again: by `start`, or where nothing flows to the
  // rows by gather_again.
  const bool starts_again = rows.slot && !tape.is_replay() &&
                            std::ranges::any_of(weights, [](const Var& weight) { return weight.slot != nullptr; });
  const auto start = [&comm, empty, products, num_rows, ranks, longest, parts, like = outline(share),
                      freed = starts_again ? Saved(whole) : Saved(),
                      part = starts_again ? Saved(share) : Saved()](const std::vector<GivesBack>& made) {
    const nn::RowsUnderWay again =
        part.get().defined() ? comm.start_gather(part.get(), 0, num_rows) : nn::RowsUnderWay();
    std::vector<nn::RowsUnderWay> sums;
    for (std::int64_t i = 0; i < parts; ++i) {
      const Slice run = slice_of(longest, i, parts);
      const Tensor dx = empty(ranks * run.count, like.shape()[1]);
      multiply_back(
          made, products, [&](const Tensor& dy) { return run_of_shares(dy, run, ranks); }, dx);
      sums.push_back(comm.start_sum_share(dx));
    }
    if (again) refill(freed.get(), again());
    return nn::RowsUnderWay([like, longest, sums = std::move(sums)] {
      const Tensor dx = empty_like(like);
      put_sums(sums, longest, dx);
      return dx;
    });
  };
  std::vector<Var> made = with_products(tape, "enter_sequence", rows, whole, weights, values, products, start);
  if (!rows.slot) gather_again(tape, constant(std::move(whole)), rows, comm);
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
  put_sums(sums, longest, share);
  const Var product = tape.output(y, {&x, &weight});
  const Tensor made = y.rows(0, num_rows);
  if (!x.slot) {
    if (product.slot) push_linear(tape, x, weight, products, product.slot, made);
    return with_exit_sequence(tape, product, num_rows, share, comm);
  }
  if (product.slot && weight.slot) push_linear(tape, constant(x.value), weight, products, product.slot, made);
  Var out = tape.output(share, {&product});
  if (out.slot)
    tape.push({"exit_sequence",
               {x.slot},
               [&tape, &comm, products, ranks, longest, parts, slot = out.slot, like = outline(share), to = x.slot,
                to_like = outline(x.value), of_weight = weight.slot ? product.slot : nullptr,
                whole_like = outline(made), w = Saved(weight.value)] {
                 GatheredRuns arriving(gradient(slot, like), longest, parts, comm);
                 tape.fill_wait();
                 const GradientTarget dx = open_gradient(to, to_like);
                 const Tensor whole = of_weight ? empty_like(whole_like) : Tensor();
                 arriving.for_each([&](const Slice& run, const Tensor& dy) {
                   if (of_weight) put_run(dy, run, ranks, whole);
                   const Tensor rows =
                       dx.beta != 0 ? run_of_shares(dx.tensor, run, ranks)
                                    : Tensor::empty(dy.memory(), dy.dtype(), {ranks * run.count, to_like.shape()[1]});
                   linear_rows_back(dy, w.get(), products, dx.beta, rows);
                   put_run(rows, run, ranks, dx.tensor);
                 });
                 if (of_weight) accumulate(of_weight, whole);
               }});
  return out;
}

}  // namespace limbeck::core
