// The layouts of layout_test.cpp, over MPI.

#include <gtest/gtest.h>

#include "tests/mpi_main/mpi_test.h"
#include "tests/support/layouts.h"

namespace limbeck::testing {
namespace {

// Fewer than threads run, for what is different here is how values travel; and little is sent in few operations, each
// of which waits for its turn on a busy machine with fewer cores than ranks.
TEST(MpiLayouts, GradientsAreThoseOfPyTorch) {
  struct Layout {
    const char* name;
    bool cuts_dense;  // else what is dense travels as in dp
    bool sequence_parallel = false;
  };
  const std::map<int, std::vector<Layout>> layouts_of_size = {{1, {{"dp1", true}}},
                                                              {2,
                                                               {{"dp2", true},
                                                                {"ep2", false},
                                                                {"tp2", true},
                                                                {"tp2ep2", false},
                                                                {"tp2etp2", false},
                                                                {"tp2", true, true},
                                                                {"cp2", true}}},
                                                              {4,
                                                               {{"dp4", true},
                                                                {"dp2ep2", false},
                                                                {"ep4", false},
                                                                {"tp4", true},
                                                                {"tp2ep2", false},
                                                                {"tp2dp2", true},
                                                                {"tp2etp2", false},
                                                                {"ep2etp2", false},
                                                                {"tp2dp2", true, true},
                                                                {"cp2tp2ep2", true, true}}}};
  constexpr std::int64_t bucket_bytes = 1 << 15;
  for (const auto& [layout, cuts_dense, sequence_parallel] : layouts_of_size.at(the_world()->size())) {
    SCOPED_TRACE(layout);
    launch::Rank rank(the_world(), layout, 1, sequence_parallel);
    expect_golden(rank, "moe_idle_expert.h5", core::DType::F32, {.micro_batches = 2}, bucket_bytes);
    if (cuts_dense) expect_golden(rank, "dense_uneven.h5", core::DType::F64, {.micro_batches = 2}, bucket_bytes);
  }
}

}  // namespace
}  // namespace limbeck::testing
