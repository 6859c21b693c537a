// The cases of comm_cases.h over MPI. Started by mpirun (tests/CMakeLists.txt); rank 0 prints, others only what fails.
#include <gtest/gtest.h>

#include <cstdio>

#include "parallel/mpi_world.h"
#include "tests/parallel/comm_cases.h"
#include "tests/parallel/mesh_cases.h"

namespace limbeck::testing {
namespace {

/// The world of this process, for the tests; one a process by nature.
std::shared_ptr<WorldComm>& the_world() {
  static std::shared_ptr<WorldComm> world;
  return world;
}

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

int main(int argc, char** argv) {
  using namespace limbeck;
  using limbeck::testing::the_world;
  ::testing::InitGoogleTest(&argc, argv);
  parallel::MpiWorld world(std::chrono::seconds(60));
  the_world() = world.comm();
  if (world.rank() != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    class Failures final : public ::testing::EmptyTestEventListener {
      void OnTestPartResult(const ::testing::TestPartResult& r) override {
        if (r.failed()) std::fprintf(stderr, "%s:%d: %s\n", r.file_name(), r.line_number(), r.message());
      }
    };
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new Failures);
  }
  std::int64_t code = RUN_ALL_TESTS();
  try {
    const auto memory = core::Memory::cpu(1);
    const core::Tensor worst = core::Tensor::from<std::int64_t>(memory, {1}, std::span(&code, 1));
    the_world()->all_reduce(worst, core::Reduce::Max);
    code = worst.data<std::int64_t>()[0];
  } catch (const core::Error&) {
    code = 1;
  }
  the_world().reset();
  return static_cast<int>(code);
}
