// What a rank's CPU kernels keep between calls.
#pragma once

namespace limbeck::kernels {

struct CpuCache {};

}  // namespace limbeck::kernels
