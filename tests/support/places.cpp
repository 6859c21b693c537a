#include "tests/support/places.h"

#include <cstdlib>

namespace limbeck::testing {

std::filesystem::path source_folder() {
  const char* moved = std::getenv("LIMBECK_TEST_SOURCE_DIR");
  return moved != nullptr ? moved : LIMBECK_TEST_SOURCE_DIR;
}
std::filesystem::path golden_folder() { return source_folder() / "tests" / "golden"; }
std::filesystem::path program() { return std::filesystem::path(LIMBECK_TEST_BINARY_DIR) / "bin" / "limbeck"; }

}  // namespace limbeck::testing
