// The layouts of layout_test.cpp, over MPI.

#include <gtest/gtest.h>

#include "tests/mpi_main/mpi_test.h"
#include "tests/support/layouts.h"

namespace limbeck::testing {
namespace {

TEST(MpiLayouts, GradientsAreThoseOfPyTorch) {
  const int size = the_world()->size();
  const std::map<int, std::vector<std::string>> layouts_of_size = {
      {1, {"dp1"}},
      {2, {"dp2", "ep2", "tp2", "tp2ep2", "tp2etp2"}},
      {4, {"dp4", "dp2ep2", "ep4", "tp4", "tp2ep2", "tp2dp2", "tp2etp2", "ep2etp2"}}};
  const std::vector<std::string>& layouts = layouts_of_size.at(size);
  // Fewer than threads run: what is different here is how values travel.
  const auto f32 = core::DType::F32, f64 = core::DType::F64;
  for (const std::string& layout : layouts) {
    launch::Rank rank(the_world(), layout, 1);
    for (const auto& [file, dtype, micro_batches] : std::vector<std::tuple<std::string, core::DType, std::int64_t>>{
             {"dense_uneven.h5", f64, 3}, {"moe.h5", f64, 1}, {"moe_idle_expert.h5", f32, 3}}) {
      SCOPED_TRACE(fmt::format("{} {} {}", layout, file, dtype));
      expect_golden(rank, file, dtype, {.micro_batches = micro_batches});
    }
  }
}

}  // namespace
}  // namespace limbeck::testing
