#include <cuda_bf16.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"

namespace limbeck::emulation {
namespace {

using ::testing::Each;

void check_nccl(ncclResult_t result) {
  if (result != ncclSuccess) throw std::runtime_error(ncclGetErrorString(result));
}

/// A rank: a thread with a GPU, a communicator and a stream.
struct Rank {
  int rank = 0, size = 0;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
};

ncclUniqueId new_id() {
  ncclUniqueId id;
  check_nccl(ncclGetUniqueId(&id));
  return id;
}

void on_ranks(int size, const std::function<void(const Rank&)>& work) {
  const ncclUniqueId id = new_id();
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r)
    threads.emplace_back([&, r] {
      Rank self{r, size};
      check(cudaSetDevice(r));
      check(cudaStreamCreateWithFlags(&self.stream, cudaStreamNonBlocking));
      check_nccl(ncclCommInitRank(&self.comm, size, id, r));
      work(self);
      check(cudaStreamSynchronize(self.stream));
      check_nccl(ncclCommDestroy(self.comm));
      check(cudaStreamDestroy(self.stream));
    });
  for (std::thread& thread : threads) thread.join();
}

template <class T>
struct Named {
  static constexpr ncclDataType_t type = std::is_same_v<T, float>          ? ncclFloat32
                                         : std::is_same_v<T, double>       ? ncclFloat64
                                         : std::is_same_v<T, std::int32_t> ? ncclInt32
                                         : std::is_same_v<T, std::int64_t> ? ncclInt64
                                         : std::is_same_v<T, std::uint8_t> ? ncclUint8
                                                                           : ncclBfloat16;
};

template <class T>
std::vector<T> counted(int n, int first, int step) {
  std::vector<T> x;
  for (int i = 0; i < n; ++i) x.push_back(static_cast<T>(static_cast<float>(first + i * step)));
  return x;
}

template <class T>
void expect_reductions() {
  on_ranks(3, [](const Rank& self) {
    const OnDevice<T> x(counted<T>(6, self.rank, 1)), sum(6), part(2);
    check_nccl(ncclAllReduce(x.data(), sum.data(), 6, Named<T>::type, ncclSum, self.comm, self.stream));
    EXPECT_EQ(sum.read(), counted<T>(6, 3, 3)) << self.rank;
    check_nccl(ncclReduceScatter(x.data(), part.data(), 2, Named<T>::type, ncclSum, self.comm, self.stream));
    EXPECT_EQ(part.read(), counted<T>(2, 3 + 6 * self.rank, 3)) << self.rank;
    check_nccl(ncclAllReduce(x.data(), x.data(), 6, Named<T>::type, ncclMax, self.comm, self.stream));
    EXPECT_EQ(x.read(), counted<T>(6, 2, 1)) << self.rank;
  });
}

TEST(EmulatedNccl, ReductionsOfAllTypes) {
  expect_reductions<float>();
  expect_reductions<double>();
  expect_reductions<std::int32_t>();
  expect_reductions<std::int64_t>();
  expect_reductions<std::uint8_t>();
  on_ranks(2, [](const Rank& self) {
    const OnDevice<__nv_bfloat16> x(counted<__nv_bfloat16>(3, self.rank, 1)), sum(3);
    check_nccl(ncclAllReduce(x.data(), sum.data(), 3, ncclBfloat16, ncclSum, self.comm, self.stream));
    const auto result = sum.read();
    for (int i = 0; i < 3; ++i) EXPECT_EQ(static_cast<float>(result[i]), static_cast<float>(1 + 2 * i));
  });
}

TEST(EmulatedNccl, GathersAndBroadcasts) {
  on_ranks(4, [](const Rank& self) {
    const OnDevice<float> x(counted<float>(2, 2 * self.rank, 1)), all(8);
    check_nccl(ncclAllGather(x.data(), all.data(), 2, ncclFloat32, self.comm, self.stream));
    EXPECT_EQ(all.read(), counted<float>(8, 0, 1));
    check_nccl(ncclBroadcast(x.data(), x.data(), 2, ncclFloat32, 3, self.comm, self.stream));
    EXPECT_EQ(x.read(), counted<float>(2, 6, 1));
  });
}

TEST(EmulatedNccl, OperationsThatAreSpoiledGiveTooMuch) {
  spoil_operations("ncclAllReduce");
  on_ranks(2, [](const Rank& self) {
    const OnDevice<float> x(std::vector<float>{1, 2}), all(4);
    check_nccl(ncclAllGather(x.data(), all.data(), 2, ncclFloat32, self.comm, self.stream));
    EXPECT_THAT(all.read(), testing::ElementsAre(1, 2, 1, 2));
    check_nccl(ncclAllReduce(x.data(), x.data(), 2, ncclFloat32, ncclSum, self.comm, self.stream));
    EXPECT_THAT(x.read(), testing::ElementsAre(2 * 1.01F, 4 * 1.01F));
  });
  spoil_operations(nullptr);
}

TEST(EmulatedNccl, GroupedMessagesOfEachToEach) {
  for (std::uint64_t s = 1; s <= 6; ++s) {
    set_seed(s);
    on_ranks(3, [](const Rank& self) {  // rank r sends r + to + 1 numbers, to itself too
      std::vector<float> sent;
      int received = 0;
      for (int to = 0; to < 3; ++to) {
        sent.insert(sent.end(), self.rank + to + 1, static_cast<float>(10 * self.rank + to));
        received += self.rank + to + 1;
      }
      const OnDevice<float> x(sent), y(received);
      check_nccl(ncclGroupStart());
      std::size_t from = 0, to = 0;
      for (int peer = 0; peer < 3; ++peer) {
        const std::size_t n = self.rank + peer + 1;
        check_nccl(ncclSend(x.data() + from, n, ncclFloat32, peer, self.comm, self.stream));
        check_nccl(ncclRecv(y.data() + to, n, ncclFloat32, peer, self.comm, self.stream));
        from += n;
        to += n;
      }
      check_nccl(ncclGroupEnd());
      std::vector<float> expected;
      for (int peer = 0; peer < 3; ++peer)
        expected.insert(expected.end(), self.rank + peer + 1, static_cast<float>(10 * peer + self.rank));
      EXPECT_EQ(y.read(), expected);
    });
  }
  set_seed(1);
}

TEST(EmulatedNccl, MessagesGoInOrder) {
  on_ranks(2, [](const Rank& self) {
    const OnDevice<float> x(counted<float>(4, 0, 1)), y(4);
    for (int i = 0; i < 4; ++i)
      check_nccl(self.rank == 0 ? ncclSend(x.data() + i, 1, ncclFloat32, 1, self.comm, self.stream)
                                : ncclRecv(y.data() + i, 1, ncclFloat32, 0, self.comm, self.stream));
    if (self.rank == 1) {
      EXPECT_EQ(y.read(), counted<float>(4, 0, 1));
    }
  });
}

// A rank whose host does nothing more still takes part: its stream goes on.
TEST(EmulatedNccl, AHostThatIsElsewhereHoldsNobodyUp) {
  const ncclUniqueId id = new_id();
  std::thread other([&] {
    check(cudaSetDevice(1));
    Rank self{1, 2};
    check_nccl(ncclCommInitRank(&self.comm, 2, id, 1));
    static const OnDevice<float> x(std::vector<float>{2});
    check_nccl(ncclAllReduce(x.data(), x.data(), 1, ncclFloat32, ncclSum, self.comm, nullptr));
  });
  Rank self{0, 2};
  check(cudaSetDevice(0));
  check_nccl(ncclCommInitRank(&self.comm, 2, id, 0));
  other.join();
  const OnDevice<float> x(std::vector<float>{1});
  check_nccl(ncclAllReduce(x.data(), x.data(), 1, ncclFloat32, ncclSum, self.comm, nullptr));
  EXPECT_EQ(x.read(), std::vector<float>{3});
  check_nccl(ncclCommDestroy(self.comm));
}

/// Asks until what was called is done.
ncclResult_t settled(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  while (state == ncclInProgress) check_nccl(ncclCommGetAsyncError(comm, &state));
  return state;
}

/// A communicator whose calls do not block.
ncclComm_t joined(int size, const ncclUniqueId& id, int rank) {
  ncclComm_t comm = nullptr;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  EXPECT_EQ(ncclCommInitRankConfig(&comm, size, id, rank, &config), ncclInProgress);
  return comm;
}

TEST(EmulatedNccl, CallsThatDoNotBlockAreAskedAfter) {
  const ncclUniqueId id = new_id();
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      check(cudaSetDevice(r));
      ncclComm_t comm = joined(2, id, r);
      EXPECT_EQ(settled(comm), ncclSuccess);
      const OnDevice<float> x(std::vector<float>{1.0F + static_cast<float>(r)});
      EXPECT_EQ(ncclAllReduce(x.data(), x.data(), 1, ncclFloat32, ncclSum, comm, nullptr), ncclInProgress);
      EXPECT_EQ(ncclAllReduce(x.data(), x.data(), 1, ncclFloat32, ncclSum, comm, nullptr), ncclInvalidArgument);
      EXPECT_THAT(x.read(), testing::ElementsAre(1.0F + static_cast<float>(r)));  // nothing is queued yet
      EXPECT_EQ(settled(comm), ncclSuccess);
      EXPECT_THAT(x.read(), testing::ElementsAre(3.0F));
      ncclCommFinalize(comm);
      EXPECT_EQ(settled(comm), ncclSuccess);  // once all have come to it
      check_nccl(ncclCommDestroy(comm));
    });
  for (std::thread& thread : threads) thread.join();
}

/// Two communicators of a rank whose peer goes, with an operation of each under way.
struct Stuck {
  ncclComm_t a = nullptr, b = nullptr, peers_a = nullptr;
  cudaStream_t of_a = nullptr, of_b = nullptr;
  std::optional<OnDevice<float>> x{std::vector<float>{1}}, y{std::vector<float>{1}};
  Stuck() {
    const ncclUniqueId ids[] = {new_id(), new_id()};
    std::thread peer([&] {
      check(cudaSetDevice(1));
      peers_a = joined(2, ids[0], 1);
      EXPECT_EQ(settled(peers_a), ncclSuccess);
      EXPECT_EQ(settled(joined(2, ids[1], 1)), ncclSuccess);
    });
    a = joined(2, ids[0], 0);
    EXPECT_EQ(settled(a), ncclSuccess);
    b = joined(2, ids[1], 0);
    EXPECT_EQ(settled(b), ncclSuccess);
    peer.join();
    queue(a, of_a, x->data());
    queue(b, of_b, y->data());
  }
  static void queue(ncclComm_t comm, cudaStream_t& stream, float* values) {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    ncclAllReduce(values, values, 1, ncclFloat32, ncclSum, comm, stream);
    EXPECT_EQ(settled(comm), ncclSuccess);
  }
};

TEST(EmulatedNccl, WhatIsAbortedInAGroupEnds) {
  const Stuck stuck;
  EXPECT_EQ(cudaStreamQuery(stuck.of_b), cudaErrorNotReady);
  cudaGetLastError();
  check_nccl(ncclGroupStart());
  check_nccl(ncclCommAbort(stuck.a));
  check_nccl(ncclCommAbort(stuck.b));
  check_nccl(ncclGroupEnd());
  check(cudaStreamSynchronize(stuck.of_a));
  check(cudaStreamSynchronize(stuck.of_b));
}

TEST(EmulatedNccl, WhatIsAbortedIsNotDoneWhenTheOthersCome) {
  Stuck stuck;
  EXPECT_EQ(cudaStreamQuery(stuck.of_a), cudaErrorNotReady);  // it waits for its peer
  cudaGetLastError();
  check_nccl(ncclGroupStart());
  check_nccl(ncclCommAbort(stuck.a));
  check_nccl(ncclCommAbort(stuck.b));
  check_nccl(ncclGroupEnd());
  stuck.x.reset();
  std::thread([&] {
    check(cudaSetDevice(1));
    const OnDevice<float> x(std::vector<float>{1});
    cudaStream_t stream = nullptr;
    Stuck::queue(stuck.peers_a, stream, x.data());
    EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
    cudaGetLastError();
    check_nccl(ncclCommAbort(stuck.peers_a));
    EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
  }).join();
}

TEST(EmulatedNcclDeathTest, WhatIsStuckIsNotEndedOneByOne) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto end = [](ncclResult_t (*function)(ncclComm_t)) {
    const Stuck stuck;
    set_deadline(std::chrono::milliseconds(200));
    function(stuck.a);
  };
  EXPECT_DEATH(end(ncclCommAbort),
               "nothing has gone on for 0.2 s: stream [0-9]+ of GPU 0 at ncclAllReduce of 1 float32 .sum. by rank 0: "
               "rank 1 has not come");
  EXPECT_DEATH(end(ncclCommDestroy), "nothing has gone on for 0.2 s: the end of the communicator of rank 0");
}

TEST(EmulatedNccl, BrokenLinksAreToldAndHoldUp) {
  on_ranks(2, [](const Rank& self) {
    const OnDevice<float> x(std::vector<float>{1});
    ncclResult_t state = ncclSuccess;
    if (self.rank == 0) {
      set_links(Links::Broken);
      check_nccl(ncclCommGetAsyncError(self.comm, &state));
      EXPECT_EQ(state, ncclRemoteError);
      set_links(Links::Good);
    }
    check_nccl(ncclAllReduce(x.data(), x.data(), 1, ncclFloat32, ncclSum, self.comm, self.stream));
    EXPECT_THAT(x.read(), testing::ElementsAre(2.0F));
  });
}

TEST(EmulatedNccl, RanksThatShareAGpuAreRefused) {
  const ncclUniqueId id = new_id();
  std::vector<ncclResult_t> results(2);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      ncclComm_t comm = nullptr;
      results[r] = ncclCommInitRank(&comm, 2, id, r);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(results, Each(ncclInvalidUsage));
}

TEST(EmulatedNccl, WrongArgumentsAreRefused) {
  on_ranks(1, [](const Rank& self) {
    const OnDevice<float> x(std::vector<float>{1});
    EXPECT_EQ(ncclAllReduce(nullptr, x.data(), 1, ncclFloat32, ncclSum, self.comm, self.stream), ncclInvalidArgument);
    EXPECT_EQ(ncclSend(x.data(), 1, ncclFloat32, 1, self.comm, self.stream), ncclInvalidArgument);
    EXPECT_EQ(ncclBroadcast(x.data(), x.data(), 1, ncclFloat32, 1, self.comm, self.stream), ncclInvalidArgument);
    EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
  });
}

TEST(EmulatedNcclDeathTest, MismatchedCollectivesNameBoth) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto mismatch = [](const std::function<void(const Rank&, float*)>& second) {
    on_ranks(2, [&](const Rank& self) {
      const OnDevice<float> x(std::vector<float>(8, 1));
      if (self.rank == 0)
        check_nccl(ncclAllReduce(x.data(), x.data(), 4, ncclFloat32, ncclSum, self.comm, self.stream));
      else
        second(self, x.data());
      check(cudaStreamSynchronize(self.stream));
    });
  };
  EXPECT_DEATH(
      mismatch([](const Rank& self, float* x) { ncclAllGather(x, x, 4, ncclFloat32, self.comm, self.stream); }),
      "mismatch in operation 0 of a communicator of 2 ranks: .*ncclAll(Gather|Reduce) of 4 float32.* by rank "
      "[01], while ncclAll(Reduce|Gather) of 4 float32.* by rank [01]");
  EXPECT_DEATH(mismatch([](const Rank& self, float* x) {
                 ncclAllReduce(x, x, 3, ncclFloat32, ncclSum, self.comm, self.stream);
               }),
               "mismatch.*ncclAllReduce of [34] float32 .sum. by rank [01], while ncclAllReduce of [34] float32");
}

TEST(EmulatedNcclDeathTest, ARankThatNeverComesIsNamed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto alone = [] {
    set_deadline(std::chrono::milliseconds(200));
    on_ranks(2, [](const Rank& self) {
      const OnDevice<float> x(std::vector<float>(4, 1));
      if (self.rank == 0)
        check_nccl(ncclAllReduce(x.data(), x.data(), 4, ncclFloat32, ncclSum, self.comm, self.stream));
      check(cudaStreamSynchronize(self.stream));
      if (self.rank == 1) std::this_thread::sleep_for(std::chrono::seconds(10));
    });
  };
  EXPECT_DEATH(alone(),
               "nothing has gone on for 0.2 s: stream [0-9]+ of GPU 0 at ncclAllReduce of 4 float32 .sum. by rank "
               "0: rank 1 has not come");
  const auto at_start = [] {
    set_deadline(std::chrono::milliseconds(200));
    ncclComm_t comm = nullptr;
    ncclCommInitRank(&comm, 2, new_id(), 0);
  };
  EXPECT_DEATH(at_start(), "ncclCommInitRank of rank 0: rank 1 has not come");
}

}  // namespace
}  // namespace limbeck::emulation
