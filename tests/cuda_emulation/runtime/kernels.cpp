#include "tests/cuda_emulation/runtime/kernels.h"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "tests/cuda_emulation/fibers/shared_memory.h"
#include "tests/cuda_emulation/report.h"
#include "tests/cuda_emulation/runtime/calls.h"

using namespace limbeck::emulation;

namespace {

constexpr std::size_t usual_shared_bytes = std::size_t{48} << 10;

// What kernels may have of dynamic shared memory where that is more than usual.
std::map<const void*, std::size_t>& shared_limits() {
  static auto* limits = new std::map<const void*, std::size_t>;
  return *limits;
}

std::size_t shared_limit(const void* kernel) {
  const auto found = shared_limits().find(kernel);
  return found == shared_limits().end() ? usual_shared_bytes : found->second;
}

}  // namespace

namespace limbeck::emulation {

void launch_kernel(const Launch& launch, cudaStream_t handle) {
  call("kernel<<<>>>", [&](Lock&) {
    const auto stream = stream_of(handle);
    if (stream == nullptr || stream->device != current_device()) return cudaErrorInvalidResourceHandle;
    if (launch.shared_bytes > shared_limit(launch.kernel))
      throw std::runtime_error(
          fmt::format("launch of {}: {} bytes of shared memory, of which cudaFuncSetAttribute allowed {}",
                      code_name(launch.kernel), launch.shared_bytes, shared_limit(launch.kernel)));
    Operation operation;
    operation.what = [kernel = launch.kernel] { return code_name(kernel); };
    operation.run = [launch] { run_launch(launch); };
    machine().enqueue(stream, std::move(operation));
    return cudaSuccess;
  });
}

}  // namespace limbeck::emulation

extern "C" {

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute name, int value) {
  return call("cudaFuncSetAttribute", [&](Lock&) {
    if (function == nullptr || value < 0) return cudaErrorInvalidValue;
    if (name != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;  // the others are hints
    if (static_cast<std::size_t>(value) > max_shared_bytes) return cudaErrorInvalidValue;
    shared_limits()[function] = static_cast<std::size_t>(value);
    return cudaSuccess;
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  return call("cudaFuncGetAttributes", [&](Lock&) {
    *attributes = {};
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 64;
    attributes->maxDynamicSharedSizeBytes = static_cast<int>(shared_limit(function));
    attributes->binaryVersion = attributes->ptxVersion = 80;
    return cudaSuccess;
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int block_size,
                                                          std::size_t shared_bytes) {
  return call("cudaOccupancyMaxActiveBlocksPerMultiprocessor", [&](Lock&) {
    if (block_size <= 0) return cudaErrorInvalidValue;
    const int by_threads = 2048 / block_size;
    const int by_shared = static_cast<int>((max_shared_bytes + 1024) / (shared_bytes + 1024));
    *blocks = std::min({by_threads, by_shared, 32});
    return cudaSuccess;
  });
}

}  // extern "C"
