// What the exchanges of tensor parallelism must do on any world (see comm_cases.h).
#pragma once

#include "core/ops/tensor_exchange.h"
#include "core/slice.h"
#include "parallel/communicators.h"
#include "tests/parallel/comm_cases.h"

namespace limbeck::testing {

/// Parts of every length, of both dimensions, in rank order.
inline void gather_case(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  const auto comm = parallel::make_tensor_comm({std::shared_ptr<void>(), &world});
  for (const std::int64_t rows : {0, 1, 3, 8})
    for (const std::int64_t columns : {0, 1, 5, 8}) {
      const Tensor whole = filled<double>(memory, {rows, columns}, 0);
      for (const int dimension : {0, 1}) {
        const core::Slice mine = core::slice_of(dimension == 0 ? rows : columns, world.rank(), world.size());
        Tensor part =
            dimension == 0 ? whole.rows(mine.first, mine.count) : Tensor::empty(memory, DType::F64, {rows, mine.count});
        if (dimension == 1)
          for (std::int64_t i = 0; i < part.numel(); ++i)
            part.mutable_data<double>()[i] =
                whole.data<double>()[i / mine.count * columns + mine.first + i % mine.count];
        const Tensor gathered = comm->gather(part, dimension, dimension == 0 ? rows : columns);
        EXPECT_EQ(gathered.shape(), whole.shape());
        for (std::int64_t i = 0; i < whole.numel(); ++i) EXPECT_EQ(gathered.data<double>()[i], whole.data<double>()[i]);
      }
    }
  EXPECT_THROW(comm->gather(Tensor::zeros(memory, DType::F64, {3, 3}), 0, 100), core::Error);
}

/// <A x, y> = <x, A' y> for each exchange A and its backward A'. A value that all ranks hold alike is one value, and
/// counts once; parts count on every rank. Integers: exactly.
inline void tensor_exchange_case(WorldComm& world) {
  using core::Tape;
  using core::Var;
  const auto memory = Memory::cpu(1);
  const auto comm = parallel::make_tensor_comm({std::shared_ptr<void>(), &world});
  const int me = world.rank();
  const auto product = [](const Tensor& a, const Tensor& b) {
    double sum = 0;
    for (std::int64_t i = 0; i < a.numel(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
    return sum;
  };
  struct Exchange {
    const char* name;
    bool takes_parts, gives_parts, cuts_rows;
    std::function<Var(Tape&, const Var&, std::int64_t num_rows)> run;
  };
  const std::vector<Exchange> exchanges = {
      {"enter", false, true, false, [&](Tape& t, const Var& x, std::int64_t) { return core::enter(t, x, *comm); }},
      {"exit", true, false, false, [&](Tape& t, const Var& x, std::int64_t) { return core::exit(t, x, *comm); }},
      {"scatter", false, true, true, [&](Tape& t, const Var& x, std::int64_t) { return core::scatter(t, x, *comm); }},
      {"gather", true, false, true,
       [&](Tape& t, const Var& x, std::int64_t n) { return core::gather(t, x, n, *comm); }}};
  for (const Exchange& exchange : exchanges)
    for (const std::int64_t num_rows : {0, 1, 5, 8}) {
      SCOPED_TRACE(exchange.name + std::to_string(num_rows));
      const std::int64_t part_rows = exchange.cuts_rows ? core::slice_of(num_rows, me, world.size()).count : num_rows;
      const auto values = [&](bool is_part, int seed) {
        return filled<double>(memory, {is_part ? part_rows : num_rows, 3}, seed + (is_part ? me : 0));
      };
      Tape tape;
      const Var x = core::leaf(values(exchange.takes_parts, 1));
      const Tensor before = x.value.clone();
      const Var y = exchange.run(tape, x, num_rows);
      EXPECT_EQ(tape.num_steps(), world.size() == 1 ? 0U : 1U);
      const Tensor dy = values(exchange.gives_parts, 7);
      if (world.size() > 1) core::accumulate(y.slot, dy);
      const Tensor kept = dy.clone();
      tape.run();
      EXPECT_EQ(product(x.value, x.value), product(before, before));  // others refer to both: neither was written
      EXPECT_EQ(product(dy, dy), product(kept, kept));
      if (world.size() == 1) continue;
      double products[2] = {product(y.value, dy), product(x.value, x.slot->grad)};
      if (me > 0 && !exchange.gives_parts) products[0] = 0;
      if (me > 0 && !exchange.takes_parts) products[1] = 0;
      const Tensor sums = Tensor::from<double>(memory, {2}, products);
      world.all_reduce(sums, Reduce::Sum);
      EXPECT_EQ(sums.data<double>()[0], sums.data<double>()[1]);
      // Where no gradient arrives, the collectives run all the same.
      Tape silent;
      const Var z = exchange.run(silent, core::leaf(values(exchange.takes_parts, 1)), num_rows);
      silent.run();
    }
}

}  // namespace limbeck::testing
