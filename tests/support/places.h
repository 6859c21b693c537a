// Where the tests find the source tree and the built program: fixed when they are built.
#pragma once

#include <filesystem>

namespace limbeck::testing {

std::filesystem::path source_folder();
std::filesystem::path golden_folder();
std::filesystem::path program();

}  // namespace limbeck::testing
