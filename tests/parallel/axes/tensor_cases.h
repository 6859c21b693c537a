// What the exchanges of tensor parallelism must do on any world (see comm_cases.h).
#pragma once

#include <array>
#include <span>
#include <vector>

#include "core/ops/linear.h"
#include "core/ops/tensor_exchange.h"
#include "core/recompute.h"
#include "core/slice.h"
#include "parallel/axes/communicators.h"
#include "tests/parallel/comm/comm_cases.h"

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

/// Rows of the sum, however many there are.
inline void sum_share_case(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  const auto comm = parallel::make_tensor_comm({std::shared_ptr<void>(), &world});
  for (const std::int64_t rows : {0, 1, 3, 8, 1001}) {
    const core::Slice mine = core::slice_of(rows, world.rank(), world.size());
    const Tensor share = comm->sum_share(filled<float>(memory, {rows, 5}, world.rank()));
    ASSERT_EQ(share.shape(), (Shape{mine.count, 5}));
    for (std::int64_t i = 0; i < share.numel(); ++i) {
      double expected = 0;
      for (int r = 0; r < world.size(); ++r) expected += value_at(r, 5 * mine.first + i);
      ASSERT_EQ(share.data<float>()[i], static_cast<float>(expected)) << rows;
    }
  }
}

/// Several under way, in the order in which they were started, whichever is waited for first.
inline void sums_under_way_case(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  const auto comm = parallel::make_tensor_comm({std::shared_ptr<void>(), &world});
  constexpr std::int64_t columns = 5;
  const auto sum_at = [&](int seed, std::int64_t i) {
    double sum = 0;
    for (int r = 0; r < world.size(); ++r) sum += value_at(seed + r, i);
    return static_cast<float>(sum);
  };
  for (const std::int64_t rows : {0, 1, 3, 8, 1001}) {
    const core::Slice mine = core::slice_of(rows, world.rank(), world.size());
    const auto of = [&](int seed) { return filled<float>(memory, {rows, columns}, seed + world.rank()); };
    const Tensor x = of(0);
    const nn::RowsUnderWay sum = comm->start_sum(x), share = comm->start_sum_share(of(7)),
                           last = comm->start_sum(of(3));
    const Tensor third = last(), second = share(), first = sum();
    EXPECT_EQ(first.raw(), x.raw());
    ASSERT_EQ(second.shape(), (Shape{mine.count, columns}));
    for (std::int64_t i = 0; i < x.numel(); ++i) {
      ASSERT_EQ(first.data<float>()[i], sum_at(0, i)) << rows;
      ASSERT_EQ(third.data<float>()[i], sum_at(3, i)) << rows;
    }
    for (std::int64_t i = 0; i < second.numel(); ++i)
      ASSERT_EQ(second.data<float>()[i], sum_at(7, columns * mine.first + i)) << rows;
  }
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
    bool takes_parts, gives_parts, takes_share, gives_share;  // a share: this rank's rows
    std::function<Var(Tape&, const Var&, std::int64_t num_rows)> run;
  };
  const std::vector<Exchange> exchanges = {
      {"enter", false, true, false, false,
       [&](Tape& t, const Var& x, std::int64_t) { return core::enter(t, x, *comm); }},
      {"exit", true, false, false, false, [&](Tape& t, const Var& x, std::int64_t) { return core::exit(t, x, *comm); }},
      {"scatter", false, true, false, true,
       [&](Tape& t, const Var& x, std::int64_t) { return core::scatter(t, x, *comm); }},
      {"gather", true, false, true, false,
       [&](Tape& t, const Var& x, std::int64_t n) { return core::gather(t, x, n, *comm); }},
      {"enter_sequence", true, true, true, false,
       [&](Tape& t, const Var& x, std::int64_t n) { return core::enter_sequence(t, x, n, *comm); }},
      {"exit_sequence", true, true, false, true,
       [&](Tape& t, const Var& x, std::int64_t) { return core::exit_sequence(t, x, *comm); }}};
  for (const Exchange& exchange : exchanges)
    for (const std::int64_t num_rows : {0, 1, 5, 8}) {
      SCOPED_TRACE(exchange.name + std::to_string(num_rows));
      const auto values = [&](bool is_part, bool is_share, int seed) {
        const std::int64_t rows = is_share ? core::slice_of(num_rows, me, world.size()).count : num_rows;
        return filled<double>(memory, {rows, 3}, seed + (is_part ? me : 0));
      };
      const auto input = [&] { return values(exchange.takes_parts, exchange.takes_share, 1); };
      Tape tape;
      const Var x = core::leaf(input());
      const Tensor before = x.value.clone();
      const Var y = exchange.run(tape, x, num_rows);
      EXPECT_EQ(tape.num_steps(), world.size() == 1 ? 0U : 1U);
      const Tensor dy = values(exchange.gives_parts, exchange.gives_share, 7);
      EXPECT_EQ(y.shape(), world.size() == 1 ? x.shape() : dy.shape());
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
      const Var z = exchange.run(silent, core::leaf(input()), num_rows);
      silent.run();
    }
}

/// A feed-forward between enter and exit, or of a divided sequence, with each way in which weights get their gradients:
/// the same bits.
inline void weights_beside_sums_case(WorldComm& world) {
  using core::Tape;
  using core::Var;
  const auto memory = Memory::cpu(1);
  const auto comm = parallel::make_tensor_comm({std::shared_ptr<void>(), &world});
  for (const bool is_divided : {false, true})
    for (const std::int64_t num_rows : {0, 1, 5, 8}) {
      const core::Slice share =
          is_divided ? core::slice_of(num_rows, world.rank(), world.size()) : core::Slice{0, num_rows};
      const auto gradients = [&](Tape::WeightParts weight_parts) {
        Tape tape;
        tape.set_weight_parts(weight_parts);
        const Var x = core::leaf(filled<float>(memory, {num_rows, 3}, 1).rows(share.first, share.count).clone());
        const Var up = core::leaf(filled<float>(memory, {4, 3}, 2 + world.rank())),
                  down = core::leaf(filled<float>(memory, {3, 4}, 7 + world.rank()));
        const Var entered = is_divided ? core::enter_sequence(tape, x, num_rows, *comm) : core::enter(tape, x, *comm);
        const Var hidden = core::linear(tape, entered, up);
        if (is_divided) core::gather_again(tape, entered, x, *comm);
        const Var parts = core::linear(tape, hidden, down);
        const Var y = is_divided ? core::exit_sequence(tape, parts, *comm) : core::exit(tape, parts, *comm);
        core::accumulate(y.slot, filled<float>(memory, y.shape(), 5));
        tape.run();
        tape.run_weight_parts();
        std::vector<std::vector<float>> found;
        for (const Var* v : {&x, &up, &down})
          found.push_back(core::host_values<float>(core::gradient(v->slot, v->value)));
        return found;
      };
      const auto at_once = gradients(Tape::WeightParts::AtOnce);
      EXPECT_EQ(gradients(Tape::WeightParts::InWaits), at_once) << num_rows;
      EXPECT_EQ(gradients(Tape::WeightParts::Queued), at_once) << num_rows;
    }
}

/// Numbers of this rank whose sum over the ranks rounds, so that another order of these would show; products with
/// `filled` are exact.
inline Tensor filled_of_rank(const core::MemoryPtr& memory, const core::Shape& shape, const WorldComm& world,
                             int seed) {
  Tensor part = filled<float>(memory, shape, seed + world.rank());
  if (world.rank() % 2 == 1)
    for (std::int64_t i = 0; i < part.numel(); ++i) part.mutable_data<float>()[i] *= 1 << 20;
  return part;
}

/// A product in runs of tokens, one of which is summed while the next is made, and whose gradient is gathered in runs:
/// the bits of one, of what it gives and of gradients, also where x has a part of its own already; some ranks have no
/// row in some runs.
inline void sums_in_chunks_case(WorldComm& world) {
  using core::Tape;
  using core::Var;
  const auto memory = Memory::cpu(1);
  const auto comm = parallel::make_tensor_comm({std::shared_ptr<void>(), &world});
  const Tensor part = filled_of_rank(memory, {3, 4}, world, 0);
  for (const bool is_divided : {false, true})
    for (const std::int64_t num_rows : {0, 1, 5, 8, 101}) {
      const auto numbers = [&](std::int64_t chunks, bool is_read_elsewhere) {
        Tape tape;
        const Var x = core::leaf(filled<float>(memory, {num_rows, 4}, 0)), weight = core::leaf(part.clone());
        const auto in_chunks = is_divided ? core::linear_exit_sequence : core::linear_exit;
        const Var y = in_chunks(tape, x, weight, core::Products::AsActivations, *comm, chunks);
        EXPECT_EQ(tape.num_steps(), world.size() == 1 ? 1U : 2U);
        core::accumulate(y.slot, filled<float>(memory, y.shape(), 5));
        if (is_read_elsewhere) core::accumulate(x.slot, filled_of_rank(memory, x.shape(), world, 3));
        tape.run();
        return std::vector{core::host_values<float>(y.value), core::host_values<float>(core::gradient(x.slot, x.value)),
                           core::host_values<float>(core::gradient(weight.slot, weight.value))};
      };
      for (const bool is_read_elsewhere : {false, true}) {
        const auto whole = numbers(1, is_read_elsewhere);
        for (const std::int64_t chunks : {2, 3, 64, 1024})
          EXPECT_EQ(numbers(chunks, is_read_elsewhere), whole) << num_rows << ' ' << chunks;
      }
    }
}

/// Products of what enters whole or in shares, whose gradient is made and summed in runs: the bits of one run, however
/// the weights get their gradients, and where one of them, or x, gets none.
inline void gradients_in_chunks_case(WorldComm& world) {
  using core::Tape;
  using core::Var;
  using WeightParts = Tape::WeightParts;
  const auto memory = Memory::cpu(1);
  const auto comm = parallel::make_tensor_comm({std::shared_ptr<void>(), &world});
  constexpr core::Products products = core::Products::AsActivations;
  for (const bool is_divided : {false, true})
    for (const std::int64_t num_rows : {1, 5, 101}) {
      const core::Slice share =
          is_divided ? core::slice_of(num_rows, world.rank(), world.size()) : core::Slice{0, num_rows};
      const auto gradients = [&](std::int64_t chunks, WeightParts weight_parts, std::size_t frozen) {
        Tape tape;
        tape.set_weight_parts(weight_parts);
        std::array<core::Parameter, 2> parameters;  // whose gradients may be made later
        std::vector<Var> in = {
            core::leaf(filled<float>(memory, {num_rows, 4}, 1).rows(share.first, share.count).clone()),
            core::leaf(filled_of_rank(memory, {3, 4}, world, 0)), core::leaf(filled_of_rank(memory, {5, 4}, world, 1))};
        for (std::size_t i = 0; i < 2; ++i) in[i + 1].slot->parameter = &parameters[i];
        if (frozen < in.size()) in[frozen].slot = nullptr;
        const std::span<const Var> weights = std::span(in).subspan(1);
        const std::vector<Var> made =
            is_divided ? core::enter_sequence_linear(tape, in[0], num_rows, weights, products, *comm, chunks)
                       : core::enter_linear(tape, in[0], weights, products, *comm, chunks);
        std::vector<std::vector<float>> found;
        for (const Var& y : made) {
          found.push_back(core::host_values<float>(y.value));
          if (y.slot) core::accumulate(y.slot, filled<float>(memory, y.shape(), 1));
        }
        tape.run();
        tape.run_weight_parts();
        for (const Var& v : in)
          if (v.slot) found.push_back(core::host_values<float>(core::gradient(v.slot, v.value)));
        return found;
      };
      for (const std::size_t frozen : {0U, 1U, 2U, 3U}) {  // 3: none
        const auto whole = gradients(1, WeightParts::AtOnce, frozen);
        for (const WeightParts when : {WeightParts::AtOnce, WeightParts::InWaits, WeightParts::Queued})
          EXPECT_EQ(gradients(3, when, frozen), whole) << num_rows << ' ' << frozen;
        EXPECT_EQ(gradients(64, WeightParts::InWaits, frozen), whole) << num_rows << ' ' << frozen;
      }
    }
}

/// Products of rows that are gathered in runs: the bits of those of rows that are gathered at once, of what they give
/// and of gradients, by as many steps; some ranks have no row in some runs.
inline void gathers_in_chunks_case(WorldComm& world) {
  using core::Tape;
  using core::Var;
  const auto memory = Memory::cpu(1);
  const auto comm = parallel::make_tensor_comm({std::shared_ptr<void>(), &world});
  for (const std::int64_t num_rows : {0, 1, 5, 8, 101}) {
    const core::Slice share = core::slice_of(num_rows, world.rank(), world.size());
    const Tensor all = filled<double>(memory, {num_rows, 4}, 1);
    const std::array parts = {filled<double>(memory, {3, 4}, 2 + world.rank()),
                              filled<double>(memory, {5, 4}, 7 + world.rank())};
    const auto numbers = [&](std::int64_t chunks, bool is_recomputed = false) {
      Tape tape;
      const Var x = core::leaf(all.rows(share.first, share.count).clone());
      const std::array weights = {core::leaf(parts[0]), core::leaf(parts[1])};
      const core::Block block = [&](Tape& on, std::span<const Var> in) {
        return core::enter_sequence_linear(on, in[0], num_rows, weights, core::Products::AsActivations, *comm, chunks);
      };
      const std::vector<Var> in = {x}, made = is_recomputed ? core::recompute(tape, in, block) : block(tape, in);
      if (!is_recomputed) {
        EXPECT_EQ(tape.num_steps(), world.size() == 1 ? 2U : 4U);
      }
      std::vector<std::vector<double>> found;
      for (const Var& y : made) {
        found.push_back(core::host_values<double>(y.value));
        core::accumulate(y.slot, filled<double>(memory, y.shape(), 5));
      }
      tape.run();
      for (const Var* v : {&x, &weights[0], &weights[1]})
        found.push_back(core::host_values<double>(core::gradient(v->slot, v->value)));
      return found;
    };
    const auto whole = numbers(1);
    Tape off(Tape::Mode::Off);
    for (std::size_t i = 0; i < 2; ++i)
      EXPECT_EQ(whole.at(i),
                core::host_values<double>(core::linear(off, core::constant(all), core::constant(parts.at(i))).value));
    for (const std::int64_t chunks : {2, 3, 64, 1024}) {
      EXPECT_EQ(numbers(chunks), whole) << num_rows << ' ' << chunks;
      EXPECT_EQ(numbers(chunks, true), whole) << num_rows << ' ' << chunks << ", recomputed";
    }
  }
}

/// What gather_again frees is there again, and the same, for the steps that saved it, but not written anew.
inline void gather_again_case(WorldComm& world) {
  using core::Tape;
  using core::Var;
  if (world.size() == 1) return;
  const auto memory = Memory::cpu(1);
  const auto comm = parallel::make_tensor_comm({std::shared_ptr<void>(), &world});
  for (const std::int64_t num_rows : {1, 5, 8}) {
    const auto share = core::slice_of(num_rows, world.rank(), world.size());
    const Tensor whole = filled<double>(memory, {num_rows, 3}, 4);
    const Var x = core::constant(whole.rows(share.first, share.count).clone());
    Tape tape;
    const Var unread = core::enter_sequence(tape, x, num_rows, *comm);
    core::gather_again(tape, unread, x, *comm);
    EXPECT_EQ(tape.num_steps(), 0U);  // nothing saved it, and nothing flows back
    const Var entered = core::enter_sequence(tape, x, num_rows, *comm);
    bool was_read = false;
    tape.push({"reads", {}, [&, saved = core::Saved(entered.value)] {
                 const double* values = saved.get().data<double>();
                 for (std::int64_t i = 0; i < whole.numel(); ++i) EXPECT_EQ(values[i], whole.data<double>()[i]);
                 was_read = true;
               }});
    core::gather_again(tape, entered, x, *comm);
    EXPECT_TRUE(entered.value.storage()->is_empty());
    EXPECT_THROW(entered.value.raw(), core::Error);
    tape.run();
    EXPECT_TRUE(was_read);
  }
}

}  // namespace limbeck::testing
