#include <gmock/gmock.h>

#include <array>
#include <barrier>
#include <chrono>
#include <thread>

#include "core/exchanges_of.h"
#include "parallel/comm/engine.h"
#include "parallel/threads/thread_world.h"
#include "tests/parallel/comm/comm_cases.h"
#include "tests/parallel/comm/traffic_cases.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

class ThreadComm : public ::testing::TestWithParam<std::tuple<CommCase, int>> {};

TEST_P(ThreadComm, Case) {
  const auto& [test_case, num_ranks] = GetParam();
  run_ranks(num_ranks, [&body = test_case.body](RankWorld& world) { body(*world.comm); });
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<CommCase, int>>& p) {
  return std::get<0>(p.param).name + "_" + std::to_string(std::get<1>(p.param));
}
INSTANTIATE_TEST_SUITE_P(All, ThreadComm, ::testing::Combine(::testing::ValuesIn(comm_cases()), ::testing::Range(1, 5)),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Traffic, ThreadComm,
                         ::testing::Combine(::testing::ValuesIn(traffic_cases()), ::testing::Range(1, 5)), name_of);

/// The message that every rank's error holds, when the ranks run `body`; none may take longer than the deadline.
std::vector<std::string> messages_of(int num_ranks, parallel::Deadline deadline,
                                     const std::function<void(RankWorld&)>& body) {
  std::vector<std::string> messages(static_cast<std::size_t>(num_ranks));
  run_ranks(
      num_ranks,
      [&](RankWorld& world) {
        try {
          body(world);
        } catch (const core::Error& e) {
          messages[static_cast<std::size_t>(world.rank)] = e.what();
        }
      },
      deadline);
  return messages;
}

TEST(ThreadWorld, AbortWakesEveryRankWithItsMessage) {
  const auto messages = messages_of(4, 60s, [](RankWorld& world) {
    const auto pair = world.comm->split(world.rank / 2, world.rank, "pair");
    if (world.rank == 3) {
      std::this_thread::sleep_for(20ms);
      world.comm->abort("loss is not finite at step 7");
    }
    if (world.rank == 2) std::this_thread::sleep_for(60ms);  // comes later: fails all the same
    pair->barrier();
    world.comm->barrier();
  });
  for (const auto& m : messages) EXPECT_THAT(m, HasSubstr("loss is not finite at step 7"));
}

TEST(ThreadWorld, OnlyTheOriginsErrorIsItsOwn) {
  std::vector<int> echoes(3);
  EXPECT_THROW(run_ranks(3,
                         [&](RankWorld& world) {
                           try {
                             if (world.rank == 1) throw core::UsageError("rank 1 stops");
                             world.comm->barrier();
                           } catch (const parallel::PeerError& e) {
                             echoes[static_cast<std::size_t>(world.rank)] = 1;
                             EXPECT_STREQ(e.what(), "rank 1 stops");
                             throw;
                           }
                         }),
               core::UsageError);
  EXPECT_EQ(echoes, (std::vector<int>{1, 0, 1}));
}

TEST(ThreadWorld, MissedDeadlineNamesWhoHasNotCome) {
  const auto start = std::chrono::steady_clock::now();
  const auto messages = messages_of(3, 100ms, [](RankWorld& world) {
    if (world.rank != 1) world.comm->barrier();
  });
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
  for (const int r : {0, 2})
    EXPECT_THAT(messages[static_cast<std::size_t>(r)],
                AllOf(HasSubstr("barrier in group world"), HasSubstr("no end after 0.1 s (parallel.deadline_s)"),
                      HasSubstr("rank 1 has not come")));
  EXPECT_EQ(messages[1], "");
}

TEST(ThreadWorld, MissedDeadlineTellsWhereTheOtherRankIs) {
  const auto memory = core::Memory::cpu(1);
  const auto messages = messages_of(3, 200ms, [&](RankWorld& world) {
    world.comm->note_step(7);
    world.comm->all_reduce(Tensor::zeros(memory, DType::F32, {8}), Reduce::Sum);
    if (world.rank != 2) world.comm->barrier();
  });
  for (const int r : {0, 1})
    EXPECT_THAT(messages[static_cast<std::size_t>(r)],
                AllOf(HasSubstr("barrier in group world at step 7: no end after"),
                      HasSubstr("rank 2 has not come: it is at step 7, its last operation was all_reduce(sum) of 8 "
                                "float32 in group world")));
}

/// By what was said when it began, whatever is said while it is waited for.
TEST(ThreadWorld, MissedDeadlineNamesWhatIsExchanged) {
  const auto memory = core::Memory::cpu(1);
  const auto messages = messages_of(2, 200ms, [&](RankWorld& world) {
    world.comm->note_step(7);
    {
      const core::ExchangesOf losses("losses of the step");
      world.comm->all_reduce(Tensor::zeros(memory, DType::F64, {4}), Reduce::Sum);
    }
    if (world.rank == 1) return;
    CommHandle sum;
    {
      const core::ExchangesOf gradients("gradients of", core::name_of_many("norm.weight", 3));
      sum = world.comm->all_reduce_async(Tensor::zeros(memory, DType::F32, {8}), Reduce::Sum);
    }
    const core::ExchangesOf evaluation("evaluation");
    sum.wait();
  });
  EXPECT_EQ(messages[0],
            "all_reduce(sum) of 8 float32 (gradients of norm.weight and 2 more) in group world at step 7: no end after "
            "0.2 s (parallel.deadline_s); rank 1 has not come: it is at step 7, its last operation was all_reduce(sum) "
            "of 4 float64 (losses of the step) in group world");
}

/// Each sends as many rows as it has for the others; that is its own, and the rest the same whoever says it.
TEST(ThreadWorld, MissedDeadlineIsToldAlikeByAllWhoWait) {
  const auto memory = core::Memory::cpu(1);
  const auto messages = messages_of(3, 200ms, [&](RankWorld& world) {
    if (world.rank == 2) return;
    const std::int64_t rows = 3 + world.rank;
    const Tensor x = Tensor::zeros(memory, DType::F32, {rows, 4});
    const std::array<std::int64_t, 3> own = {world.rank == 0 ? rows : 0, world.rank == 1 ? rows : 0, 0};
    CommHandle tokens;
    {
      const core::ExchangesOf experts("experts of layer", 5, "dispatch");
      tokens = world.comm->all_to_all_v_async(x, own, x, own);
    }
    EXPECT_EQ(
        world.comm->engine().whereabouts().at.operation,
        fmt::format("all_to_all_v of rows of 4 float32, {} sent (experts of layer 5, dispatch) in group world", rows));
    tokens.wait();
  });
  for (const int r : {0, 1})
    EXPECT_THAT(messages[static_cast<std::size_t>(r)],
                HasSubstr("all_to_all_v of rows of 4 float32 (experts of layer 5, dispatch) in group world at step 0: "
                          "no end after 0.2 s (parallel.deadline_s); rank 2 has not come"));
}

/// Rank 0 waits for rank 1, which waits for rank 3: that one is named, by its number in the world.
TEST(ThreadWorld, MissedDeadlineNamesWhoHoldsUpTheOthers) {
  const auto messages = messages_of(4, 200ms, [&](RankWorld& world) {
    const auto column = world.comm->split(world.rank / 2, world.rank, "column");
    const auto odd = world.comm->split(world.rank % 2, world.rank, "row");
    if (world.rank == 0) column->barrier();
    if (world.rank == 1) odd->barrier();
  });
  for (const int r : {0, 1})
    EXPECT_THAT(messages[static_cast<std::size_t>(r)],
                AllOf(HasSubstr("rank 3 has not come"), ::testing::Not(HasSubstr("rank 1 has not come"))));
}

/// Operations that go elsewhere than by the world: rank 0 waits in one for rank 1, which waits for rank 2.
TEST(ThreadWorld, WhatGoesElsewhereIsWaitedForLikewise) {
  std::barrier all_have_left(3);  // the world's barrier, in which a rank is until it wakes
  const auto messages = messages_of(3, 100ms, [&](RankWorld& world) {
    parallel::Engine& engine = world.comm->engine();
    EXPECT_NO_THROW(engine.check());
    world.comm->note_step(7);
    engine.note({.of = core::Subject("a start"), .group = std::make_shared<const std::string>("world")});
    EXPECT_EQ(engine.whereabouts().at.operation, "barrier (a start) in group world");
    if (world.rank < 2)
      engine.set_elsewhere([next = world.rank + 1] {
        return parallel::Whereabouts{
            .at = {.step = 0, .number = 1, .operation = "a sum"}, .is_waiting = true, .waits_for = {{next, {}}}};
      });
    world.comm->barrier();
    all_have_left.arrive_and_wait();
    parallel::WaitLimit limit(engine.deadline(), parallel::WaitLimit::Clock::now() - engine.deadline());
    if (world.rank == 0) engine.look(limit, "a sum", {{1, {}}});
    for (int i = 0; i < 500; ++i) {
      std::this_thread::sleep_for(5ms);
      engine.check();
    }
  });
  EXPECT_THAT(messages, ::testing::Each("a sum at step 7: no end after 0.1 s (parallel.deadline_s); rank 2 has not "
                                        "come: it is at step 7, its last operation was barrier in group world"));
}

TEST(ThreadWorld, MismatchNamesBothRanks) {
  const auto memory = core::Memory::cpu(1);
  struct Mismatch {
    std::function<void(RankWorld&)> body;
    std::vector<std::string> parts;
  };
  const auto tensor = [&](DType dtype, std::int64_t n) { return Tensor::zeros(memory, dtype, {n}); };
  const std::vector<Mismatch> cases{
      {[&](RankWorld& w) { w.rank == 1 ? w.comm->barrier() : w.comm->all_reduce(tensor(DType::F32, 8), Reduce::Sum); },
       {"all_reduce(sum) of 8 float32", "rank 1 calls barrier"}},
      {[&](RankWorld& w) { w.comm->all_reduce(tensor(w.rank == 1 ? DType::F64 : DType::F32, 8), Reduce::Sum); },
       {"8 float32", "rank 1 calls all_reduce(sum) of 8 float64"}},
      {[&](RankWorld& w) { w.comm->all_reduce(tensor(DType::F32, w.rank == 1 ? 9 : 8), Reduce::Max); },
       {"all_reduce(max) of 8 float32", "rank 1 calls all_reduce(max) of 9 float32"}},
      {[&](RankWorld& w) { w.comm->all_reduce(tensor(DType::F32, 8), w.rank == 1 ? Reduce::Max : Reduce::Sum); },
       {"all_reduce(sum) of 8 float32", "rank 1 calls all_reduce(max) of 8 float32"}},
      {[&](RankWorld& w) {
         if (w.rank == 0) w.comm->send(tensor(DType::F32, 8), 1);
         if (w.rank == 1) w.comm->receive(tensor(DType::F32, 9), 0);
         w.comm->barrier();
       },
       {"rank 0 calls send of 8 float32", "rank 1 calls receive of 9 float32"}},
      {[&](RankWorld& w) {
         std::vector<std::int64_t> send(3, 1), receive(3, 1);
         if (w.rank == 1) receive[2] = 2;
         w.comm->all_to_all_v(tensor(DType::F32, 8), send, tensor(DType::F32, 8), receive);
       },
       {"all_to_all_v: rank 2 sends 1 rows to rank 1, which expects 2"}}};
  for (const auto& [body, parts] : cases) {
    const auto messages = messages_of(3, 30s, body);
    for (const auto& m : messages)
      for (const auto& part : parts) EXPECT_THAT(m, HasSubstr(part));
  }
}

TEST(ThreadWorld, ProgressesWhileTheRankComputes) {
  run_ranks(2, [](RankWorld& world) {
    const auto memory = core::Memory::cpu(1);
    Tensor x = filled<float>(memory, {1000}, world.rank);
    CommHandle h = world.comm->all_reduce_async(x, Reduce::Sum);
    // Nobody waits; the storage is shared with the communication threads until they are done.
    for (int i = 0; i < 2000 && !x.is_sole_owner(); ++i) std::this_thread::sleep_for(5ms);
    EXPECT_TRUE(x.is_sole_owner());
    h.wait();
    EXPECT_EQ(x.data<float>()[500], static_cast<float>(value_at(0, 500) + value_at(1, 500)));
  });
}

TEST(ThreadWorld, UnwaitedOperationsAreDroppedWithTheWorld) {
  const auto memory = core::Memory::cpu(1);
  run_ranks(2, [&](RankWorld& world) {
    if (world.rank == 0) world.comm->all_reduce_async(Tensor::zeros(memory, DType::F32, {100}), Reduce::Sum);
  });
  EXPECT_EQ(memory->statistics().used_bytes, 0);
}

TEST(ThreadWorld, RefusesNoRanks) {
  EXPECT_THROW(parallel::ThreadWorld(0), core::UsageError);
  parallel::ThreadWorld world(2);
  EXPECT_THROW(world.comm(2), core::Error);
}

}  // namespace
}  // namespace limbeck::testing
