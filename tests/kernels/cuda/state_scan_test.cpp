#include "kernels/state_scan.h"

#include "tests/kernels/cuda/sequences.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaStateScan : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaStateScan, Types);

struct Shape {
  std::int64_t heads, width, groups, state_width;
};

/// The inputs of both devices.
template <class T>
struct Inputs {
  std::vector<T> x, dt, b, c;
  std::vector<Acc<T>> dt_bias, a_log, skip;
  OnGpu<T> x_there, dt_there, b_there, c_there;
  OnGpu<Acc<T>> dt_bias_there, a_log_there, skip_there;

  Inputs(const Shape& s, std::int64_t tokens)
      : x(random_values<T>(tokens * s.heads * s.width, 1)),
        dt(random_values<T>(tokens * s.heads, 2)),
        b(random_values<T>(tokens * s.groups * s.state_width, 3)),
        c(random_values<T>(tokens * s.groups * s.state_width, 4)),
        dt_bias(random_values<Acc<T>>(s.heads, 5)),
        a_log(random_values<Acc<T>>(s.heads, 6, 2)),
        skip(random_values<Acc<T>>(s.heads, 7)),
        x_there(x),
        dt_there(dt),
        b_there(b),
        c_there(c),
        dt_bias_there(dt_bias),
        a_log_there(a_log),
        skip_there(skip) {}
  ScanInputs<T> here() const {
    return {x.data(), dt.data(), b.data(), c.data(), dt_bias.data(), a_log.data(), skip.data()};
  }
  ScanInputs<T> there() {
    return {x_there.data(),       dt_there.data(),    b_there.data(),   c_there.data(),
            dt_bias_there.data(), a_log_there.data(), skip_there.data()};
  }
};

ScanProblem problem_of(const Sequences& sequences, const Shape& s) {
  return {sequences, s.heads, s.width, s.groups, s.state_width, 0.1, 2};
}
/// On a boundary of 64 bytes, for the CPU.
template <class A>
A* aligned(std::vector<A>& room, std::int64_t count) {
  room.resize(static_cast<std::size_t>(count) + 64 / sizeof(A));
  return reinterpret_cast<A*>((reinterpret_cast<std::uintptr_t>(room.data()) + 63) / 64 * 64);
}

constexpr double scale = 60;  // of sums over some dozens of terms

/// Gradients of all inputs on both devices, of what the scan gives and of states, where there are some: alike.
template <class T>
void expect_gradients(const ScanProblem& here, const ScanProblem& there, Inputs<T>& in, const std::vector<T>& dy,
                      const Acc<T>* states = nullptr, Acc<T>* dstates = nullptr, const Acc<T>* states_there = nullptr,
                      Acc<T>* dstates_there = nullptr) {
  using A = Acc<T>;
  std::vector<T> dx(in.x.size()), ddt(in.dt.size()), db(in.b.size()), dc(in.c.size());
  std::vector<A> dt_bias(in.skip.size()), a_log(in.skip.size()), skip(in.skip.size()), room;
  const auto size = [](const auto& v) { return static_cast<std::int64_t>(v.size()); };
  OnGpu<T> dy_there(dy), dx_there(size(dx)), ddt_there(size(ddt)), db_there(size(db)), dc_there(size(dc));
  OnGpu<A> dt_bias_there(size(skip)), a_log_there(size(skip)), skip_there(size(skip)),
      room_there(there.gradient_room());
  state_scan_gradient<Cpu, T>(cpu(), here, in.here(), dy.data(), aligned(room, here.gradient_room()),
                              {dx.data(), ddt.data(), db.data(), dc.data(), dt_bias.data(), a_log.data(), skip.data()},
                              states, dstates);
  state_scan_gradient<Cuda, T>(gpu(), there, in.there(), dy_there.data(), room_there.data(),
                               {dx_there.data(), ddt_there.data(), db_there.data(), dc_there.data(),
                                dt_bias_there.data(), a_log_there.data(), skip_there.data()},
                               states_there, dstates_there);
  const double wide = scale * static_cast<double>(here.width);
  expect_close(dx_there.values(), dx, wide);
  expect_close(ddt_there.values(), ddt, 10 * wide);
  expect_close(db_there.values(), db, wide);
  expect_close(dc_there.values(), dc, wide);
  expect_close(dt_bias_there.values(), dt_bias, 100 * wide);
  expect_close(a_log_there.values(), a_log, 100 * wide);
  expect_close(skip_there.values(), skip, 10 * wide);
  (void)room_there.values();  // nothing was written beside it
}

TYPED_TEST(CudaStateScan, IsThatOfTheCpu) {
  using T = TypeParam;
  using A = Acc<T>;
  for (const auto& lengths : {std::vector<std::vector<std::int64_t>>{}, {{1}, {}, {5, 8}}, {{140, 3}, {64}, {65}}})
    for (const Shape& shape : {Shape{4, 3, 2, 5}, Shape{2, 67, 1, 70}}) {
      if (lengths.size() == 3 && lengths[0][0] == 1 && shape.width > 3) continue;
      BothSequences sequences(lengths);
      const ScanProblem here = problem_of(sequences.here(), shape), there = problem_of(sequences.there(), shape);
      Inputs<T> in(shape, sequences.tokens());
      const auto dy = random_values<T>(static_cast<std::int64_t>(in.x.size()), 8);
      std::vector<T> y(in.x.size());
      std::vector<A> room;
      OnGpu<T> y_there(static_cast<std::int64_t>(y.size()));
      OnGpu<A> room_there(there.room());
      state_scan<Cpu, T>(cpu(), here, in.here(), aligned(room, here.room()), nullptr, y.data());
      state_scan<Cuda, T>(gpu(), there, in.there(), room_there.data(), nullptr, y_there.data());
      expect_close(y_there.values(), y, scale);
      (void)room_there.values();
      expect_gradients<T>(here, there, in, dy);
    }
}

TYPED_TEST(CudaStateScan, GoesOnFromStates) {
  using T = TypeParam;
  using A = Acc<T>;
  constexpr std::int64_t slots = 7;
  const Shape shape{2, 5, 1, 35};
  BothSequences sequences({{1}, {}, {2, 2}, {90}, {16}, {3, 20}}, {4, 0, 5, 1, 3, 6});
  const ScanProblem here = problem_of(sequences.here(), shape), there = problem_of(sequences.there(), shape);
  Inputs<T> in(shape, sequences.tokens());
  auto states = random_values<A>(slots * shape.heads * shape.width * shape.state_width, 8);
  std::vector<T> y(in.x.size());
  std::vector<A> room;
  OnGpu<A> states_there(states), room_there(there.room());
  OnGpu<T> y_there(static_cast<std::int64_t>(y.size()));
  state_scan<Cpu, T>(cpu(), here, in.here(), aligned(room, here.room()), states.data(), y.data());
  state_scan<Cuda, T>(gpu(), there, in.there(), room_there.data(), states_there.data(), y_there.data());
  expect_close(y_there.values(), y, scale);
  expect_close(states_there.values(), states, scale);
  (void)room_there.values();
}

// Runs of sequences that are cut: what they leave, the gradients of what they begin with, and those between runs.
TYPED_TEST(CudaStateScan, RunsAreThoseOfTheCpu) {
  using T = TypeParam;
  using A = Acc<T>;
  const Shape shape{2, 5, 1, 35};
  BothSequences sequences({{1}, {}, {2, 2}, {90}, {130, 3}, {64}}, {5, 0, 4, 1, 3, 2});
  ScanProblem here = problem_of(sequences.here(), shape), there = problem_of(sequences.there(), shape);
  here.few_by_tokens = there.few_by_tokens = false;
  Inputs<T> in(shape, sequences.tokens());
  const std::int64_t elements = shape.width * shape.state_width, states_size = 6 * shape.heads * elements,
                     parts_size = 6 * shape.heads * (elements + 1);
  const auto dy = random_values<T>(static_cast<std::int64_t>(in.x.size()), 8);
  const auto states = random_values<A>(states_size, 9);
  auto dstates = random_values<A>(states_size, 10);
  std::vector<A> room;
  OnGpu<A> room_there(here.gradient_room()), states_there(states), dstates_there(dstates);
  OnGpu<T> dy_there(dy);

  const std::vector<std::int64_t> offsets = {0, 3, 5}, rows = {4, 0, 3, 2, 5};
  OnGpu<std::int64_t> offsets_there(offsets), rows_there(rows);
  for (const bool backwards : {false, true}) {
    std::vector<A> parts(static_cast<std::size_t>(parts_size)), carried(static_cast<std::size_t>(states_size));
    OnGpu<A> parts_there(parts), carried_there(carried);
    state_scan_parts<Cpu, T>(cpu(), here, in.here(), backwards ? dy.data() : nullptr, aligned(room, here.room()),
                             parts.data());
    state_scan_parts<Cuda, T>(gpu(), there, in.there(), backwards ? dy_there.data() : nullptr, room_there.data(),
                              parts_there.data());
    expect_close(parts_there.values(), parts, scale);
    carry_states<Cpu, A>(cpu(), {2, offsets.data(), rows.data()}, backwards, parts.data(), here, 1, 4, carried.data());
    carry_states<Cuda, A>(gpu(), {2, offsets_there.data(), rows_there.data()}, backwards, parts_there.data(), there, 1,
                          4, carried_there.data());
    expect_close(carried_there.values(), carried, scale);
  }

  expect_gradients<T>(here, there, in, dy, states.data(), dstates.data(), states_there.data(), dstates_there.data());
  expect_close(dstates_there.values(), dstates, scale * static_cast<double>(shape.width));
}

}  // namespace
}  // namespace limbeck::kernels
