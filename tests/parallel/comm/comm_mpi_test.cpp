// The cases of comm_cases.h over MPI.
#include <gtest/gtest.h>

#include <cstdio>

#include "parallel/mpi/mpi_world.h"
#include "tests/mpi_main/mpi_test.h"
#include "tests/parallel/axes/mesh_cases.h"
#include "tests/parallel/comm/comm_cases.h"

namespace limbeck::testing {
namespace {

class MpiComm : public ::testing::TestWithParam<CommCase> {};

TEST_P(MpiComm, Case) { GetParam().body(*the_world()); }

INSTANTIATE_TEST_SUITE_P(Communicators, MpiComm, ::testing::ValuesIn(comm_cases()),
                         [](const auto& p) { return p.param.name; });
INSTANTIATE_TEST_SUITE_P(Mesh, MpiComm, ::testing::ValuesIn(mesh_cases()), [](const auto& p) { return p.param.name; });

TEST(MpiWorld, IsOneAProcess) { EXPECT_THROW(parallel::MpiWorld(), core::Error); }

// Each of these ends the job; tests/CMakeLists.txt starts them one by one and looks for the message.
TEST(Stops, DISABLED_Abort) {
  if (the_world()->rank() == 1) {
    the_world()->abort("rank 1: loss is not finite at step 7");
    return;
  }
  const auto memory = Memory::cpu(1);
  try {
    the_world()->all_reduce(Tensor::zeros(memory, DType::F32, {1 << 20}), Reduce::Sum);
  } catch (const parallel::PeerError& e) {
    std::printf("heard: %s\n", e.what());
    std::fflush(stdout);
  }
}

TEST(Stops, DISABLED_Mismatch) {
  const auto memory = Memory::cpu(1);
  try {
    if (the_world()->rank() == 1)
      the_world()->barrier();
    else
      the_world()->all_reduce(Tensor::zeros(memory, DType::F32, {8}), Reduce::Sum);
  } catch (const parallel::PeerError& e) {
    std::printf("heard: %s\n", e.what());
    std::fflush(stdout);
  } catch (const core::Error&) {
  }
}

TEST(Stops, DISABLED_WrongCounts) {
  const auto memory = Memory::cpu(1);
  const std::int64_t n = the_world()->size();
  std::vector<std::int64_t> send(static_cast<std::size_t>(n), 1), receive = send;
  if (the_world()->rank() == 1) receive[0] = 2;
  try {
    the_world()->all_to_all_v(Tensor::zeros(memory, DType::F32, {n + 1}), send,
                              Tensor::zeros(memory, DType::F32, {n + 1}), receive);
    the_world()->barrier();
  } catch (const core::Error& e) {
    std::printf("heard: %s\n", e.what());
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace limbeck::testing
