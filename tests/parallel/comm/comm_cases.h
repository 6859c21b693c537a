// What every communicator must do, as bodies that any world can run: threads (thread_world_test.cpp) and processes
// (comm_mpi_test.cpp). Expected values are computed from the ranks' numbers alone.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "parallel/comm/world.h"

namespace limbeck::testing {

using core::CommHandle;
using core::DType;
using core::Memory;
using core::MemoryPtr;
using core::Reduce;
using core::Shape;
using core::Tensor;
using parallel::WorldComm;

struct CommCase {
  std::string name;
  std::function<void(WorldComm&)> body;
};
inline void PrintTo(const CommCase& c, std::ostream* out) { *out << c.name; }

/// A value of rank r at element i that float32 holds exactly, also in sums over few ranks.
inline double value_at(int r, std::int64_t i) { return static_cast<double>((r + 1) * (i % 1009) - 300 * r); }

template <class T>
Tensor filled(const MemoryPtr& memory, const Shape& shape, int rank) {
  Tensor t = Tensor::empty(memory, core::dtype_of<T>(), shape);
  T* p = t.mutable_data<T>();
  for (std::int64_t i = 0; i < t.numel(); ++i) p[i] = static_cast<T>(value_at(rank, i));
  return t;
}

inline const std::vector<std::int64_t>& comm_sizes() {
  static const std::vector<std::int64_t> sizes{0, 1, 2, 3, 7, 30, 33, 1023, 4097, 70001, 1000003};
  return sizes;
}

template <class T>
void all_reduce_case(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  for (const std::int64_t n : comm_sizes())
    for (const Reduce how : {Reduce::Sum, Reduce::Max}) {
      Tensor x = filled<T>(memory, {n}, world.rank());
      world.all_reduce(x, how);
      std::int64_t wrong = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        double expected = value_at(0, i);
        for (int r = 1; r < world.size(); ++r)
          expected = how == Reduce::Sum ? expected + value_at(r, i) : std::max(expected, value_at(r, i));
        wrong += x.data<T>()[i] != static_cast<T>(expected);
      }
      EXPECT_EQ(wrong, 0) << n << " elements";
    }
}

inline void refuses_other_dtypes(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  EXPECT_THROW(world.all_reduce(Tensor::zeros(memory, DType::U8, {4}), Reduce::Sum), core::Error);
  EXPECT_THROW(world.all_reduce(Tensor::zeros(memory, DType::I32, {4}), Reduce::Max), core::Error);
  world.barrier();
}

/// Sums in rank order: 1e8 + 1 - 1e8 in float32 is 0 from left to right, whoever comes first.
inline void reduces_in_rank_order(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  for (const std::int64_t n : {3, 200000})
    for (int round = 0; round < 3; ++round) {
      std::vector<float> mine(static_cast<std::size_t>(n)), expected(mine.size());
      for (int r = 0; r < world.size(); ++r)
        for (std::int64_t i = 0; i < n; ++i) {
          const auto v =
              static_cast<float>(std::sin(static_cast<double>(i) * 1.7 + r) * std::pow(10.0, (i + 3 * r) % 8));
          auto& e = expected[static_cast<std::size_t>(i)];
          e = r == 0 ? v : e + v;
          if (r == world.rank()) mine[static_cast<std::size_t>(i)] = v;
        }
      Tensor x = Tensor::from<float>(memory, {n}, mine);
      const std::int64_t share = n / world.size();
      Tensor part = Tensor::zeros(memory, DType::F32, {share});
      world.reduce_scatter(x.rows(0, share * world.size()), part);
      EXPECT_EQ(std::memcmp(part.raw(), expected.data() + world.rank() * share, static_cast<std::size_t>(share) * 4),
                0);
      world.all_reduce(x, Reduce::Sum);
      EXPECT_EQ(std::memcmp(x.raw(), expected.data(), static_cast<std::size_t>(n) * 4), 0) << n;
    }
}

/// Rank 0's 256 and a 1 of every other: in bfloat16, 256 + 1 would be 256 again and again.
inline void adds_bfloat16_in_float32(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  const core::bf16 sum(255.F + static_cast<float>(world.size()));
  for (const std::int64_t n : {3, 200000}) {
    const std::vector<core::bf16> mine(static_cast<std::size_t>(n), core::bf16(world.rank() == 0 ? 256.F : 1.F));
    Tensor x = Tensor::from<core::bf16>(memory, {n}, mine);
    Tensor part = Tensor::zeros(memory, DType::BF16, {n / world.size()});
    world.reduce_scatter(x.rows(0, part.numel() * world.size()), part);
    world.all_reduce(x, Reduce::Sum);
    for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(x.data<core::bf16>()[i].bits, sum.bits) << i;
    for (std::int64_t i = 0; i < part.numel(); ++i) ASSERT_EQ(part.data<core::bf16>()[i].bits, sum.bits) << i;
  }
}

template <class T>
void all_gather_case(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  for (const std::int64_t n : {0, 1, 5, 4099, 200003}) {
    const Tensor x = filled<T>(memory, {n, 3}, world.rank());
    Tensor all = Tensor::zeros(memory, core::dtype_of<T>(), {n * world.size(), 3});
    world.all_gather(x, all);
    for (int r = 0; r < world.size(); ++r) {
      const Tensor expected = filled<T>(memory, {n, 3}, r);
      EXPECT_TRUE(n == 0 || std::memcmp(all.rows(r * n, n).raw(), expected.raw(), expected.bytes()) == 0) << n;
    }
  }
}

template <class T>
void reduce_scatter_case(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  for (const std::int64_t n : {0, 1, 5, 50021, 400009}) {
    const Tensor all = filled<T>(memory, {n * world.size()}, world.rank());
    Tensor x = Tensor::zeros(memory, core::dtype_of<T>(), {n});
    world.reduce_scatter(all, x);
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      double expected = 0;
      for (int r = 0; r < world.size(); ++r) expected += value_at(r, world.rank() * n + i);
      wrong += x.data<T>()[i] != static_cast<T>(expected);
    }
    EXPECT_EQ(wrong, 0) << n;
  }
}

/// Rank s sends rank r (s * 3 + r * 5 + round) % 7 rows, so some are zero; round 7 sends nothing at all.
template <class T>
void all_to_all_case(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  const int me = world.rank();
  for (int round = 0; round <= 7; ++round) {
    const auto rows = [&](int from, int to) {
      return round == 7 ? 0 : (from * 3 + to * 5 + round) % 7 * (round == 3 ? 400 : round == 5 ? 9001 : 1);
    };
    std::vector<std::int64_t> send_rows, receive_rows;
    std::int64_t sent = 0, received = 0;
    for (int r = 0; r < world.size(); ++r) {
      send_rows.push_back(rows(me, r));
      receive_rows.push_back(rows(r, me));
      sent += send_rows.back();
      received += receive_rows.back();
    }
    const Tensor send = filled<T>(memory, {sent, 5}, me);
    Tensor receive = Tensor::zeros(memory, core::dtype_of<T>(), {received + 2, 5});  // more room than rows
    world.all_to_all_v(send, send_rows, receive, receive_rows);
    std::int64_t at = 0;
    for (int s = 0; s < world.size(); ++s) {
      std::int64_t start = 0, sent_by_s = 0;
      for (int r = 0; r < world.size(); ++r) {
        if (r < me) start += rows(s, r);
        sent_by_s += rows(s, r);
      }
      const Tensor all_of_s = filled<T>(memory, {sent_by_s, 5}, s);
      const Tensor expected = all_of_s.rows(start, rows(s, me));
      EXPECT_TRUE(expected.numel() == 0 ||
                  std::memcmp(receive.rows(at, rows(s, me)).raw(), expected.raw(), expected.bytes()) == 0)
          << "round " << round << " from " << s;
      at += rows(s, me);
    }
  }
}

/// A ring: everybody sends before anybody receives, several messages under way, which arrive in order.
inline void send_receive_case(WorldComm& world) {
  if (world.size() == 1) return;
  const auto memory = Memory::cpu(1);
  const int next = (world.rank() + 1) % world.size(), last = (world.rank() + world.size() - 1) % world.size();
  for (const std::int64_t n : {0, 1, 300001}) {
    std::vector<CommHandle> handles;
    std::vector<Tensor> received;
    for (int message = 0; message < 3; ++message)
      handles.push_back(world.send_async(filled<float>(memory, {n}, world.rank() + 10 * message), next));
    for (int message = 0; message < 3; ++message) {
      received.push_back(Tensor::zeros(memory, DType::F32, {n}));
      handles.push_back(world.receive_async(received.back(), last));
    }
    for (auto& h : handles) h.wait();
    for (int message = 0; message < 3; ++message) {
      const Tensor expected = filled<float>(memory, {n}, last + 10 * message);
      EXPECT_TRUE(n == 0 || std::memcmp(received[static_cast<std::size_t>(message)].raw(), expected.raw(),
                                        expected.bytes()) == 0);
    }
  }
  Tensor x = Tensor::zeros(memory, DType::F32, {1});
  EXPECT_THROW(world.send(x, world.rank()), core::Error);
  EXPECT_THROW(world.receive(x, world.size()), core::Error);
}

/// Halves by parity, in reverse order; then both groups and the world work at once, and ranks start and wait in
/// different orders between groups.
inline void split_and_overlap_case(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  const int parity = world.rank() % 2;
  const auto half = world.split(parity, -world.rank(), "half");
  const auto alone = world.split(world.rank(), 0, "alone");
  const auto twin = world.split(0, world.rank(), "twin");
  EXPECT_EQ(alone->size(), 1);
  EXPECT_EQ(half->size(), (world.size() + 1 - parity) / 2);
  EXPECT_EQ(half->rank(), half->size() - 1 - world.rank() / 2);
  EXPECT_EQ(half->name(), "half");
  EXPECT_EQ(twin->size(), world.size());
  EXPECT_EQ(twin->rank(), world.rank());
  for (int round = 0; round < 20; ++round) {
    const std::int64_t n = round % 3 == 0 ? 100003 : round;
    Tensor a = filled<float>(memory, {n}, world.rank()), b = filled<double>(memory, {n}, world.rank()),
           c = filled<std::int64_t>(memory, {n}, world.rank()), d = filled<float>(memory, {n}, world.rank());
    const auto in_half = [&] { return half->all_reduce_async(a, Reduce::Sum); };
    const auto in_twin = [&] { return twin->all_reduce_async(b, Reduce::Sum); };
    const auto in_world = [&] { return world.all_reduce_async(c, Reduce::Sum); };
    std::vector<CommHandle> handles;
    if ((world.rank() + round) % 2 == 0) {
      handles = {in_half(), in_twin(), in_world()};
    } else {
      handles = {in_world(), in_twin(), in_half()};
    }
    handles.push_back(world.all_reduce_async(d, Reduce::Max));
    for (auto& h : handles) h.wait();
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      double sum = 0, half_sum = 0, largest = value_at(0, i);
      for (int r = 0; r < world.size(); ++r) {
        sum += value_at(r, i);
        if (r % 2 == parity) half_sum += value_at(r, i);
        largest = std::max(largest, value_at(r, i));
      }
      wrong += a.data<float>()[i] != static_cast<float>(half_sum);
      wrong += b.data<double>()[i] != sum;
      wrong += c.data<std::int64_t>()[i] != static_cast<std::int64_t>(sum);
      wrong += d.data<float>()[i] != static_cast<float>(largest);
    }
    EXPECT_EQ(wrong, 0);
  }
}

/// A tensor is given up by the communication thread before wait() returns.
inline void frees_tensors_case(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  Tensor x = filled<float>(memory, {1000}, world.rank());
  for (int i = 0; i < 50; ++i) {
    world.all_reduce(x, Reduce::Max);
    EXPECT_TRUE(x.is_sole_owner());
  }
}

inline void bad_arguments_case(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  const Tensor x = Tensor::zeros(memory, DType::F32, {3});
  const Tensor other = Tensor::zeros(memory, DType::F64, {3 * world.size()});
  const std::vector<std::int64_t> too_few, negative(static_cast<std::size_t>(world.size()), -1),
      too_many(static_cast<std::size_t>(world.size()), 4);
  EXPECT_THROW(world.all_gather(x, other), core::Error);
  EXPECT_THROW(world.reduce_scatter(other, x), core::Error);
  EXPECT_THROW(world.all_to_all_v(x, too_few, x, too_few), core::Error);
  EXPECT_THROW(world.all_to_all_v(x, negative, x, negative), core::Error);
  EXPECT_THROW(world.all_to_all_v(x, too_many, x, too_many), core::Error);
  world.barrier();
}

inline std::vector<CommCase> comm_cases() {
  return {{"all_reduce_float32", all_reduce_case<float>},
          {"all_reduce_float64", all_reduce_case<double>},
          {"all_reduce_int64", all_reduce_case<std::int64_t>},
          {"refuses_other_dtypes", refuses_other_dtypes},
          {"reduces_in_rank_order", reduces_in_rank_order},
          {"adds_bfloat16_in_float32", adds_bfloat16_in_float32},
          {"all_gather_float32", all_gather_case<float>},
          {"all_gather_int32", all_gather_case<std::int32_t>},
          {"reduce_scatter_float32", reduce_scatter_case<float>},
          {"reduce_scatter_float64", reduce_scatter_case<double>},
          {"reduce_scatter_int64", reduce_scatter_case<std::int64_t>},
          {"all_to_all_float32", all_to_all_case<float>},
          {"all_to_all_float64", all_to_all_case<double>},
          {"all_to_all_int64", all_to_all_case<std::int64_t>},
          {"send_receive", send_receive_case},
          {"split_and_overlap", split_and_overlap_case},
          {"frees_tensors", frees_tensors_case},
          {"bad_arguments", bad_arguments_case}};
}

}  // namespace limbeck::testing
