// How each of CUDA's functions begins: it is counted, fails where a test wants that, and lets queued work run now and
// then.
//
//     cudaError_t cudaStreamQuery(cudaStream_t handle) {
//       return call("cudaStreamQuery", [&](Lock& lock) { ... return cudaSuccess; });
//     }
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>

#include "tests/cuda_emulation/runtime/machine.h"

struct CUstream_st {
  std::shared_ptr<limbeck::emulation::Stream> stream;
};

namespace limbeck::emulation {

/// The GPU of this thread of the host.
int current_device();
void set_current_device(int ordinal);

/// Keeps an error for cudaGetLastError, and returns it.
cudaError_t keep_error(cudaError_t error);
cudaError_t last_error();
void clear_last_error();

/// Whether this call, which is counted here, is to fail.
bool is_to_fail(const char* name);

/// f(lock) is the function's own work; its answer is kept.
template <class F>
cudaError_t call(const char* name, F&& f) {
  if (is_to_fail(name)) return keep_error(cudaErrorUnknown);
  Lock lock(machine().mutex);
  machine().run_some(lock, current_device());
  return keep_error(f(lock));
}

/// The stream of a handle, null for none that exists.
std::shared_ptr<Stream> stream_of(cudaStream_t handle);
void remember_stream(cudaStream_t handle);
bool forget_stream(cudaStream_t handle);

}  // namespace limbeck::emulation
