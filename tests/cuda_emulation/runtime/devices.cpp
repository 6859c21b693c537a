// What GPUs there are, and CUDA's errors. An emulated one is of compute capability 9.0, with the shared memory of
// an 8.0, and with few multiprocessors, so that kernels whose blocks take several pieces of work do so.
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/fibers/shared_memory.h"
#include "tests/cuda_emulation/runtime/calls.h"

using namespace limbeck::emulation;

namespace {

constexpr int num_multiprocessors = 3;
constexpr int usual_shared_bytes = 48 << 10;

std::atomic<int>& devices_seen() {
  const char* text = std::getenv("EMULATION_DEVICES");
  static std::atomic<int> count{text == nullptr ? Machine::max_devices
                                                : std::clamp(std::atoi(text), 1, Machine::max_devices)};
  return count;
}

bool is_device(int ordinal) { return ordinal >= 0 && ordinal < num_devices(); }

cudaDeviceProp properties() {
  cudaDeviceProp p{};
  std::strcpy(p.name, "Emulated GPU");
  p.totalGlobalMem = DeviceMemory::total_bytes;
  p.sharedMemPerBlock = usual_shared_bytes;
  p.sharedMemPerBlockOptin = max_shared_bytes;
  p.sharedMemPerMultiprocessor = max_shared_bytes + 1024;
  p.reservedSharedMemPerBlock = 1024;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
  p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 0x7fffffff;
  p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.maxThreadsPerMultiProcessor = 2048;
  p.maxBlocksPerMultiProcessor = 32;
  p.major = 9;
  p.minor = 0;
  p.multiProcessorCount = num_multiprocessors;
  p.l2CacheSize = 40 << 20;
  p.unifiedAddressing = p.canMapHostMemory = p.concurrentKernels = p.memoryPoolsSupported = 1;
  p.asyncEngineCount = 3;
  return p;
}

int attribute(cudaDeviceAttr name, int ordinal, bool& known) {
  const cudaDeviceProp p = properties();
  switch (name) {
    case cudaDevAttrMultiProcessorCount:
      return p.multiProcessorCount;
    case cudaDevAttrComputeCapabilityMajor:
      return p.major;
    case cudaDevAttrComputeCapabilityMinor:
      return p.minor;
    case cudaDevAttrMaxThreadsPerBlock:
      return p.maxThreadsPerBlock;
    case cudaDevAttrWarpSize:
      return p.warpSize;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return static_cast<int>(p.sharedMemPerBlock);
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return static_cast<int>(p.sharedMemPerBlockOptin);
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return static_cast<int>(p.sharedMemPerMultiprocessor);
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      return p.maxThreadsPerMultiProcessor;
    case cudaDevAttrMaxRegistersPerBlock:
      return p.regsPerBlock;
    case cudaDevAttrL2CacheSize:
      return p.l2CacheSize;
    case cudaDevAttrMemoryPoolsSupported:
      return p.memoryPoolsSupported;
    case cudaDevAttrUnifiedAddressing:
      return p.unifiedAddressing;
    case cudaDevAttrPciBusId:
      return ordinal + 1;
    case cudaDevAttrClockRate:
      return 1410000;  // kHz
    case cudaDevAttrMemoryClockRate:
      return 1593000;
    case cudaDevAttrGlobalMemoryBusWidth:
      return 5120;
    default:
      known = false;
      return 0;
  }
}

using Text = std::pair<const char*, const char*>;

Text text_of(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return {"cudaSuccess", "no error"};
    case cudaErrorInvalidValue:
      return {"cudaErrorInvalidValue", "invalid argument"};
    case cudaErrorMemoryAllocation:
      return {"cudaErrorMemoryAllocation", "out of memory"};
    case cudaErrorInvalidConfiguration:
      return {"cudaErrorInvalidConfiguration", "invalid configuration argument"};
    case cudaErrorInvalidPitchValue:
      return {"cudaErrorInvalidPitchValue", "invalid pitch argument"};
    case cudaErrorInvalidDevice:
      return {"cudaErrorInvalidDevice", "invalid device ordinal"};
    case cudaErrorInvalidResourceHandle:
      return {"cudaErrorInvalidResourceHandle", "invalid resource handle"};
    case cudaErrorNoDevice:
      return {"cudaErrorNoDevice", "no CUDA-capable device is detected"};
    case cudaErrorNotReady:
      return {"cudaErrorNotReady", "device not ready"};
    case cudaErrorNotSupported:
      return {"cudaErrorNotSupported", "operation not supported"};
    case cudaErrorIllegalState:
      return {"cudaErrorIllegalState", "the operation cannot be performed in the present state"};
    case cudaErrorStreamCaptureUnsupported:
      return {"cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"};
    case cudaErrorStreamCaptureInvalidated:
      return {"cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"};
    case cudaErrorPeerAccessAlreadyEnabled:
      return {"cudaErrorPeerAccessAlreadyEnabled", "peer access is already enabled"};
    case cudaErrorHostMemoryAlreadyRegistered:
      return {"cudaErrorHostMemoryAlreadyRegistered", "part or all of the requested memory range is already mapped"};
    case cudaErrorHostMemoryNotRegistered:
      return {"cudaErrorHostMemoryNotRegistered", "pointer does not correspond to a registered memory region"};
    default:
      return {"cudaErrorUnknown", "unknown error"};
  }
}

}  // namespace

namespace limbeck::emulation {

int num_devices() { return devices_seen(); }
void set_num_devices(int count) { devices_seen() = count; }

}  // namespace limbeck::emulation

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  return call("cudaGetDeviceCount", [&](Lock&) {
    *count = num_devices();
    return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int* ordinal) {
  return call("cudaGetDevice", [&](Lock&) {
    *ordinal = current_device();
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int ordinal) {
  return call("cudaSetDevice", [&](Lock&) {
    if (!is_device(ordinal)) return cudaErrorInvalidDevice;
    set_current_device(ordinal);
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* result, int ordinal) {
  return call("cudaGetDeviceProperties", [&](Lock&) {
    if (!is_device(ordinal)) return cudaErrorInvalidDevice;
    *result = properties();
    result->pciBusID = ordinal + 1;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int ordinal) {
  return call("cudaDeviceGetAttribute", [&](Lock&) {
    if (!is_device(ordinal)) return cudaErrorInvalidDevice;
    bool known = true;
    *value = attribute(name, ordinal, known);
    return known ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int ordinal) {
  return call("cudaDeviceGetPCIBusId", [&](Lock&) {
    if (!is_device(ordinal)) return cudaErrorInvalidDevice;
    const std::string id = "0000:0" + std::to_string(ordinal + 1) + ":00.0";
    if (length <= static_cast<int>(id.size())) return cudaErrorInvalidValue;
    std::strcpy(text, id.c_str());
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return call("cudaDeviceGetStreamPriorityRange", [&](Lock&) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  return call("cudaDeviceCanAccessPeer", [&](Lock&) {
    if (!is_device(device) || !is_device(peer)) return cudaErrorInvalidDevice;
    *can = 0;
    return cudaSuccess;
  });
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  return call("cudaRuntimeGetVersion", [&](Lock&) {
    *version = CUDART_VERSION;
    return cudaSuccess;
  });
}

cudaError_t cudaDriverGetVersion(int* version) {
  return call("cudaDriverGetVersion", [&](Lock&) {
    *version = CUDART_VERSION;
    return cudaSuccess;
  });
}

cudaError_t cudaGetLastError() {
  if (is_to_fail("cudaGetLastError")) return cudaErrorUnknown;
  const cudaError_t error = last_error();
  clear_last_error();
  return error;
}

cudaError_t cudaPeekAtLastError() { return is_to_fail("cudaPeekAtLastError") ? cudaErrorUnknown : last_error(); }

const char* cudaGetErrorName(cudaError_t error) { return text_of(error).first; }

const char* cudaGetErrorString(cudaError_t error) { return text_of(error).second; }

}  // extern "C"
