// The name of this machine, as its system says it; "" where it does not.
#pragma once

#include <string>

namespace limbeck::launch {

std::string host_name();

}  // namespace limbeck::launch
