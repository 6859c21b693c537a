#include "launch/run/devices.h"

#include <fmt/format.h>

#include "core/counted.h"
#include "core/error.h"
#include "gpu_facts.h"
#include "launch/console/log.h"

namespace limbeck::launch {

std::string device_names() {
  if (!kernels::knows_gpus) return "cpu";
  if (kernels::num_gpus() == 0) return fmt::format("cpu; CUDA, but no GPU: {}", kernels::why_no_gpu());
  return fmt::format("cpu, {} (CUDA)", core::counted(kernels::num_gpus(), "GPU"));
}

bool uses_gpu(DeviceKind kind) { return kind != DeviceKind::Cpu && kernels::num_gpus() > 0; }

int gpu_of_rank(int thread) { return (launcher_rank().rank_on_machine + thread) % kernels::num_gpus(); }

std::string bus_of_rank(DeviceKind kind) { return uses_gpu(kind) ? kernels::bus_of_gpu(gpu_of_rank()) : ""; }

core::MemoryPtr memory_of_rank(DeviceKind kind, int threads, int thread) {
  if (kind == DeviceKind::Cpu) return core::Memory::cpu(threads);
  if (kind == DeviceKind::Cuda && !kernels::knows_gpus)
    core::fail_usage("train.device is CUDA, but this limbeck was built without it: its only device is the CPU");
  if (kernels::num_gpus() == 0) {
    core::check(kind != DeviceKind::Cuda, "train.device is CUDA, but no GPU can be used here: {}",
                kernels::why_no_gpu());
    return core::Memory::cpu(threads);
  }
  return std::make_shared<core::Memory>(kernels::make_gpu(gpu_of_rank(thread)), threads);
}

}  // namespace limbeck::launch
