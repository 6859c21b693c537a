// Where the tests find the source tree and the built program: fixed when they are built.
#pragma once

#include <filesystem>

namespace limbeck::testing {

inline std::filesystem::path source_folder() { return LIMBECK_TEST_SOURCE_DIR; }
inline std::filesystem::path golden_folder() { return source_folder() / "tests" / "golden"; }
inline std::filesystem::path program() { return std::filesystem::path(LIMBECK_TEST_BINARY_DIR) / "bin" / "limbeck"; }

}  // namespace limbeck::testing
