// What `limbeck --version` prints: version, build, devices, libraries, processor.
#pragma once

#include <string>

namespace limbeck::launch {

std::string version_text();

}  // namespace limbeck::launch
