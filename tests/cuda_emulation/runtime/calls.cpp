#include "tests/cuda_emulation/runtime/calls.h"

#include <atomic>
#include <set>
#include <string>

#include "tests/cuda_emulation/emulation.h"

namespace limbeck::emulation {

namespace {

thread_local int device_of_thread = 0;
thread_local cudaError_t error_of_thread = cudaSuccess;

std::atomic<std::uint64_t> calls{0};
std::atomic<std::uint64_t> call_to_fail{~std::uint64_t{0}};
std::atomic<const char*> name_of_failed{""};

std::set<cudaStream_t>& live_streams() {
  static auto* streams = new std::set<cudaStream_t>;
  return *streams;
}

}  // namespace

int current_device() { return device_of_thread; }
void set_current_device(int ordinal) { device_of_thread = ordinal; }

cudaError_t keep_error(cudaError_t error) {
  if (error != cudaSuccess) error_of_thread = error;
  return error;
}
cudaError_t last_error() { return error_of_thread; }
void clear_last_error() { error_of_thread = cudaSuccess; }

std::uint64_t num_calls() { return calls; }

void fail_call_after(std::uint64_t others) {
  name_of_failed = "";
  call_to_fail = calls + others;
}

std::string failed_call() { return name_of_failed.load(); }

bool is_to_fail(const char* name) {
  if (calls++ != call_to_fail) return false;
  name_of_failed = name;
  return true;
}

void wait_for_ever(cudaStream_t handle) {
  const Lock lock(machine().mutex);
  machine().enqueue(stream_of(handle),
                    {[] { return std::string("what never comes"); }, [] { return false; }, {}, {}, {}});
}

std::shared_ptr<Stream> stream_of(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return machine().device(current_device()).default_stream;
  return live_streams().contains(handle) ? handle->stream : nullptr;
}

void remember_stream(cudaStream_t handle) { live_streams().insert(handle); }
bool forget_stream(cudaStream_t handle) { return live_streams().erase(handle) == 1; }

}  // namespace limbeck::emulation
