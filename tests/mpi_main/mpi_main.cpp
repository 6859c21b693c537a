#include <gtest/gtest.h>

#include <cstdio>
#include <span>
#include <string_view>

#include "parallel/mpi/mpi_world.h"
#include "tests/mpi_main/mpi_test.h"

std::shared_ptr<limbeck::parallel::WorldComm>& limbeck::testing::the_world() {
  static std::shared_ptr<parallel::WorldComm> world;
  return world;
}

int main(int argc, char** argv) {
  using namespace limbeck;
  using limbeck::testing::the_world;
  ::testing::InitGoogleTest(&argc, argv);
  // --short, --shorter: a deadline to be missed. --apart: what is otherwise for large sums and for ranks of several
  // nodes.
  // --copied: as where no process may read another's memory.
  parallel::MpiOptions options{.deadline = std::chrono::seconds(60)};
  for (const std::string_view argument : std::span(argv, static_cast<std::size_t>(argc))) {
    if (argument == "--short") options.deadline = std::chrono::seconds(2);
    if (argument == "--shorter") options.deadline = std::chrono::milliseconds(500);
    if (argument == "--apart") options = {.deadline = options.deadline, .largest_piece = 1000, .shares_memory = false};
    if (argument == "--copied") options.reads_directly = false;
  }
  parallel::MpiWorld world(options);
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
