// For tests that mpirun starts (tests/CMakeLists.txt, limbeck_mpi_test). Rank 0 prints, the others only what fails; the
// exit code is the worst of all ranks.
//
//     TEST(Something, UnderMpi) { the_world()->barrier(); }
#pragma once

#include <memory>

#include "parallel/comm/world.h"

namespace limbeck::testing {

/// The world of this process; one a process by nature.
std::shared_ptr<parallel::WorldComm>& the_world();

}  // namespace limbeck::testing
