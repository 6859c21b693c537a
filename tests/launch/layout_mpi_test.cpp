// The layouts of layout_test.cpp, over MPI.

#include <gtest/gtest.h>

#include "tests/mpi_main/mpi_test.h"
#include "tests/support/layouts.h"

namespace limbeck::testing {
namespace {

TEST(MpiLayouts, GradientsAreThoseOfPyTorch) {
  const int size = the_world()->size();
  const std::vector<std::string> layouts = size == 4   ? std::vector<std::string>{"dp4", "dp2ep2", "ep4"}
                                           : size == 2 ? std::vector<std::string>{"dp2", "ep2"}
                                                       : std::vector<std::string>{"dp1"};
  for (const std::string& layout : layouts)
    for (const core::DType dtype : {core::DType::F32, core::DType::F64}) {
      SCOPED_TRACE(fmt::format("{} {}", layout, dtype));
      launch::Rank rank(the_world(), layout, 1);
      expect_every_golden(rank, dtype);
    }
}

}  // namespace
}  // namespace limbeck::testing
