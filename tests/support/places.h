// Where the tests find the source tree and the built program: fixed when they are built. The environment's
// LIMBECK_TEST_SOURCE_DIR names a tree that lies elsewhere.
#pragma once

#include <filesystem>

namespace limbeck::testing {

std::filesystem::path source_folder();
std::filesystem::path golden_folder();
std::filesystem::path program();

}  // namespace limbeck::testing
