// What tests compute, bit for bit, for tests/same_bits.sh: where the environment's RESULTS_FILE names a file, it gets a
// line a result, with the name of the test that runs and a hash.
//
//     note_result(values.data(), values.size() * sizeof(float));
#pragma once

#include <cstddef>

namespace limbeck::testing {

/// Called by the thread of the test.
void note_result(const void* bytes, std::size_t size);

}  // namespace limbeck::testing
