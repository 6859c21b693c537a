// The cases of comm_cases.h over MPI.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <regex>
#include <thread>

#include "core/exchanges_of.h"
#include "parallel/comm/engine.h"
#include "parallel/mpi/mpi_world.h"
#include "tests/mpi_main/mpi_test.h"
#include "tests/parallel/axes/mesh_cases.h"
#include "tests/parallel/comm/comm_cases.h"
#include "tests/parallel/comm/traffic_cases.h"

namespace limbeck::testing {
namespace {

class MpiComm : public ::testing::TestWithParam<CommCase> {};

TEST_P(MpiComm, Case) { GetParam().body(*the_world()); }

INSTANTIATE_TEST_SUITE_P(Communicators, MpiComm, ::testing::ValuesIn(comm_cases()),
                         [](const auto& p) { return p.param.name; });
INSTANTIATE_TEST_SUITE_P(Traffic, MpiComm, ::testing::ValuesIn(traffic_cases()),
                         [](const auto& p) { return p.param.name; });
INSTANTIATE_TEST_SUITE_P(Mesh, MpiComm, ::testing::ValuesIn(mesh_cases()), [](const auto& p) { return p.param.name; });

/// As they travel: with what is told before the data.
TEST(MpiWorld, CountsSmallSumsAsToldToEverybody) {
  parallel::CommTally& tally = the_world()->engine().tally();
  for (const std::int64_t n : {1, 28}) {
    tally.take();
    the_world()->all_reduce(Tensor::zeros(Memory::cpu(1), DType::F64, {n}), Reduce::Sum);
    EXPECT_EQ(tally.take().at(CommAxis::World, Traffic::BytesInside), 8 * n * (the_world()->size() - 1));
  }
}

TEST(MpiWorld, IsOneAProcess) { EXPECT_THROW(parallel::MpiWorld(), core::Error); }

/// Where one rank cannot share memory, all of them send messages instead.
TEST(SharedMemory, IsLeftAloneByAllWhereOneRankHasNone) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit none{.rlim_cur = 65536, .rlim_max = before.rlim_max};
  const auto group = the_world()->split(0, the_world()->rank(), "group");
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, the_world()->rank() == 0 ? &none : &before), 0);
  all_gather_case<float>(*group);  // the first that is large agrees for all
  reduce_scatter_case<float>(*group);
  all_to_all_case<float>(*group);
  reduces_in_rank_order(*group);
  the_world()->barrier();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, handler);
}

// Each of these ends the job; tests/CMakeLists.txt starts them one by one. The world has failed, so that the program
// ends with code 1 whatever happens; where the message is not as expected, it ends with 3.

/// Ends the program unless this rank hears a message like that.
void expect_heard(const std::string& pattern, const std::function<void()>& waits) {
  std::string heard = "nothing";
  try {
    waits();
  } catch (const core::Error& e) {
    heard = e.what();
  }
  std::printf("heard: %s\n", heard.c_str());
  std::fflush(stdout);
  if (!std::regex_search(heard, std::regex(pattern))) std::_Exit(3);
}

TEST(Stops, DISABLED_Abort) {
  const auto memory = Memory::cpu(1);
  if (the_world()->rank() == 1) return the_world()->abort("rank 1: loss is not finite at step 7");
  expect_heard("^rank 1: loss is not finite at step 7$",
               [&] { the_world()->all_reduce(Tensor::zeros(memory, DType::F32, {1 << 20}), Reduce::Sum); });
}

TEST(Stops, DISABLED_Mismatch) {
  const auto memory = Memory::cpu(1);
  expect_heard("^group world, operation [0-9]+: rank 0 calls all_reduce.sum. of 8 float32, rank 1 calls barrier$", [&] {
    if (the_world()->rank() == 1)
      the_world()->barrier();
    else
      the_world()->all_reduce(Tensor::zeros(memory, DType::F32, {8}), Reduce::Sum);
  });
}

/// A rank that computes is asked where it is; the names of parameters may be long.
TEST(Stops, DISABLED_Late) {
  the_world()->note_step(7);
  {
    const core::ExchangesOf scope("values of", core::name_of_many(std::string(150, 'x'), 1));
    the_world()->barrier();
  }
  if (the_world()->rank() == 1) return std::this_thread::sleep_for(std::chrono::seconds(5));
  expect_heard(
      "^barrier in group world at step 7: no end after 2 s .parallel.deadline_s.; rank 1 has not come: it is at step "
      "7, "
      "its last operation was barrier .values of x{150}. in group world$",
      [] { the_world()->barrier(); });
}

/// Stops this process.
void stop_for(std::chrono::seconds time) {
  if (::fork() == 0) {  // wakes it up in the end
    std::this_thread::sleep_for(time);
    ::kill(::getppid(), SIGCONT);
    std::_Exit(0);
  }
  ::raise(SIGSTOP);
}

/// One that is stopped cannot be asked; the others tell what they heard of it.
TEST(Stops, DISABLED_Stopped) {
  const auto memory = Memory::cpu(1);
  const auto column = the_world()->split(the_world()->rank() / 2, the_world()->rank(), "column");
  const auto row = the_world()->split(the_world()->rank() % 2, the_world()->rank(), "row");
  the_world()->note_step(7);
  {
    const core::ExchangesOf scope("gradients of", core::name_of_many("norm.weight", 2));
    row->all_reduce(Tensor::zeros(memory, DType::F32, {8}), Reduce::Sum);
  }
  if (the_world()->rank() == 3) return stop_for(std::chrono::seconds(6));
  if (the_world()->rank() == 2) return std::this_thread::sleep_for(std::chrono::seconds(6));
  // Rank 0 waits for rank 1, and that one for rank 3.
  expect_heard(
      "in group (row|column) at step 7: no end after 2 s .*; rank 3 has not come and does not answer: last heard of at "
      "step 7, in all_reduce.sum. of 8 float32 .gradients of norm.weight and 1 more. in group row$",
      [&] { the_world()->rank() == 0 ? column->barrier() : row->barrier(); });
}

/// A patient wait lasts as long as the others are at work, and a deadline longer than they are alive.
TEST(Stops, DISABLED_Patient) {
  using Clock = std::chrono::steady_clock;
  const bool is_late = the_world()->rank() == 1;
  const auto deadline = the_world()->engine().deadline();
  the_world()->note_step(7);
  const auto since = Clock::now();
  while (is_late && Clock::now() - since < 2 * deadline) {
  }
  the_world()->barrier_async().wait_patiently();
  EXPECT_GE(Clock::now() - since, deadline);
  if (is_late) return stop_for(std::chrono::seconds(2));
  expect_heard(
      "^barrier in group world at step 7: no end after 0.5 s .parallel.deadline_s.; rank 1 has not come and does not "
      "answer: last heard of at step 7, in barrier in group world$",
      [] { the_world()->barrier_async().wait_patiently(); });
}

/// In the midst of what goes through memory the others know for whom they wait.
TEST(Stops, DISABLED_Midway) {
  const auto memory = Memory::cpu(1);
  const std::int64_t share = std::int64_t{1} << 20;
  const Tensor all = Tensor::zeros(memory, DType::F32, {share * the_world()->size()}),
               part = Tensor::zeros(memory, DType::F32, {share});
  the_world()->note_step(7);
  the_world()->reduce_scatter(all, part);
  if (the_world()->rank() == 1 && ::fork() == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    ::kill(::getppid(), SIGSTOP);
    std::this_thread::sleep_for(std::chrono::seconds(6));
    ::kill(::getppid(), SIGCONT);
    std::_Exit(0);
  }
  const auto go_on = [&] {
    while (true) the_world()->reduce_scatter(all, part);
  };
  if (the_world()->rank() == 1) {  // its own time has passed, too
    EXPECT_THROW(go_on(), core::Error);
    return;
  }
  expect_heard(
      "^reduce_scatter of 1048576 float32 in group world at step 7: no end after 2 s .*; rank 1 has not come and does "
      "not answer: last heard of at step 7, in reduce_scatter of 1048576 float32 in group world$",
      go_on);
}

TEST(Stops, DISABLED_WrongCounts) {
  const auto memory = Memory::cpu(1);
  const std::int64_t n = the_world()->size();
  std::vector<std::int64_t> send(static_cast<std::size_t>(n), 1), receive = send;
  if (the_world()->rank() == 1) receive[0] = 2;
  expect_heard(
      "^all_to_all_v of rows of 1 float32 in group world, operation [0-9]+: rank 0 sends 4 bytes, rank 1 expects 8$",
      [&] {
        the_world()->all_to_all_v(Tensor::zeros(memory, DType::F32, {n + 1}), send,
                                  Tensor::zeros(memory, DType::F32, {n + 1}), receive);
        the_world()->barrier();
      });
}

}  // namespace
}  // namespace limbeck::testing
