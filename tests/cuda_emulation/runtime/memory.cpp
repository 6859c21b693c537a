// Memory of the GPU and of the host that the GPU reads.
#include <cuda_runtime.h>

#include <cstdlib>
#include <string>

#include "tests/cuda_emulation/runtime/calls.h"
#include "tests/cuda_emulation/runtime/host_memory.h"

using namespace limbeck::emulation;

namespace {

cudaError_t allocate(void** address, std::size_t bytes) {
  if (address == nullptr) return cudaErrorInvalidValue;
  *address = machine().device(current_device()).memory.allocate(bytes);
  return *address == nullptr && bytes > 0 ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t allocate_host(void** address, std::size_t bytes) {
  if (address == nullptr) return cudaErrorInvalidValue;
  if (bytes == 0) {
    *address = nullptr;
    return cudaSuccess;
  }
  *address = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (*address == nullptr) return cudaErrorMemoryAllocation;
  pin(*address, bytes);
  return cudaSuccess;
}

// As CUDA's own, it waits for the GPU.
void wait_for_all(Lock& lock, int device) {
  const auto streams = machine().device(device).streams;
  for (const auto& stream : streams) machine().wait_for(lock, *stream, stream->num_queued);
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** address, std::size_t bytes) {
  return call("cudaMalloc", [&](Lock&) { return allocate(address, bytes); });
}

cudaError_t cudaFree(void* address) {
  return call("cudaFree", [&](Lock& lock) {
    if (address == nullptr) return cudaSuccess;
    const int device = machine().device_of(address);
    if (device < 0) return cudaErrorInvalidValue;
    if (spoils_captures(device)) return cudaErrorStreamCaptureUnsupported;
    wait_for_all(lock, device);
    return machine().device(device).memory.release(address) ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaMallocAsync(void** address, std::size_t bytes, cudaStream_t stream) {
  return call("cudaMallocAsync", [&](Lock&) {
    return stream_of(stream) == nullptr ? cudaErrorInvalidResourceHandle : allocate(address, bytes);
  });
}

cudaError_t cudaFreeAsync(void* address, cudaStream_t handle) {
  return call("cudaFreeAsync", [&](Lock&) {
    if (address == nullptr) return cudaSuccess;
    const auto stream = stream_of(handle);
    const int device = machine().device_of(address);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (device < 0 || !machine().device(device).memory.is_allocated(address, 1)) return cudaErrorInvalidValue;
    machine().enqueue(stream, {[] { return std::string("the end of an allocation"); },
                               nullptr,
                               nullptr,
                               [=] { machine().device(device).memory.release(address); },
                               {}});
    return cudaSuccess;
  });
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  return call("cudaMemGetInfo", [&](Lock&) {
    *free_bytes = machine().device(current_device()).memory.free_bytes();
    *total_bytes = DeviceMemory::total_bytes;
    return cudaSuccess;
  });
}

cudaError_t cudaMallocHost(void** address, std::size_t bytes) {
  return call("cudaMallocHost", [&](Lock&) { return allocate_host(address, bytes); });
}

cudaError_t cudaHostAlloc(void** address, std::size_t bytes, unsigned) {
  return call("cudaHostAlloc", [&](Lock&) { return allocate_host(address, bytes); });
}

cudaError_t cudaFreeHost(void* address) {
  return call("cudaFreeHost", [&](Lock& lock) {
    if (address == nullptr) return cudaSuccess;
    if (spoils_captures(current_device())) return cudaErrorStreamCaptureUnsupported;
    wait_for_all(lock, current_device());
    if (!unpin(address)) return cudaErrorInvalidValue;
    std::free(address);
    return cudaSuccess;
  });
}

cudaError_t cudaHostRegister(void* address, std::size_t bytes, unsigned) {
  return call("cudaHostRegister", [&](Lock&) {
    if (address == nullptr || bytes == 0) return cudaErrorInvalidValue;
    if (is_pinned(address, 1)) return cudaErrorHostMemoryAlreadyRegistered;
    pin(address, bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaHostUnregister(void* address) {
  return call("cudaHostUnregister",
              [&](Lock&) { return unpin(address) ? cudaSuccess : cudaErrorHostMemoryNotRegistered; });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  return call("cudaPointerGetAttributes", [&](Lock&) {
    if (attributes == nullptr) return cudaErrorInvalidValue;
    *attributes = {};
    const int device = machine().device_of(address);
    attributes->device = device;
    if (device >= 0 && machine().device(device).memory.is_allocated(address, 1)) {
      attributes->type = cudaMemoryTypeDevice;
      attributes->devicePointer = const_cast<void*>(address);
    } else if (is_pinned(address, 1)) {
      attributes->type = cudaMemoryTypeHost;
      attributes->device = current_device();
      attributes->devicePointer = attributes->hostPointer = const_cast<void*>(address);
    } else {
      attributes->type = cudaMemoryTypeUnregistered;
      attributes->hostPointer = const_cast<void*>(address);
    }
    return cudaSuccess;
  });
}

}  // extern "C"
