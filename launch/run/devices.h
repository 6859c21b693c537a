// Which device a rank's models are on.
//
//     Rank rank(world, layout, threads, sequence_parallel, memory_of_rank(config.train.device, threads));
#pragma once

#include <string>

#include "core/device/memory.h"
#include "launch/config/config.h"

namespace limbeck::launch {

/// For --version: "cpu", "cpu, 2 GPUs (CUDA)", or why a limbeck that knows GPUs has none.
std::string device_names();

/// Whether that is a GPU here.
bool uses_gpu(DeviceKind kind);

/// This rank's GPU by its number among those that the process sees: ranks take them by their numbers on the machine, in
/// turns where there are fewer. `thread`: which of the process's ranks it is, where they are threads. To be asked where
/// one is used.
int gpu_of_rank(int thread = 0);

/// Which of the machine's GPUs that is, by its place on the bus, whatever numbers the ranks know it by; "" where none
/// is used.
std::string bus_of_rank(DeviceKind kind);

/// Memory on the device that a config asks for, for the thread that calls; `thread` as above. Throws a UsageError where
/// CUDA is asked of a limbeck that was built without it, an Error where there is no GPU to be used.
core::MemoryPtr memory_of_rank(DeviceKind kind, int threads, int thread = 0);

}  // namespace limbeck::launch
