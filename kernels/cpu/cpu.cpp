#include "kernels/cpu.h"

#include "kernels/cpu/cpu_cache.h"

namespace limbeck::kernels {

Cpu make_cpu(int threads) { return {threads, std::make_shared<CpuCache>()}; }

}  // namespace limbeck::kernels
