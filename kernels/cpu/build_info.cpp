#include "kernels/build_info.h"

namespace limbeck::kernels {

std::string cpu_level() { return LIMBECK_CPU_LEVEL; }

}  // namespace limbeck::kernels
