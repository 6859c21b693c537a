// What `limbeck --version` prints: version, build, devices, libraries, processor.
#pragma once

#include <string>

namespace limbeck::launch {

std::string version_text();

/// The processor's name, as the system says it.
std::string processor();

}  // namespace limbeck::launch
