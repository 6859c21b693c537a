// Streams, events and functions of the host in their order.
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/cuda_emulation/runtime/calls.h"

using namespace limbeck::emulation;

namespace {

// Of one record of an event; it outlives the handle, and the next record, while streams wait for it.
struct Recorded {
  bool is_done = false;
  Time at;
  Clock clock;  // of the stream then
};

struct EventState {
  int device = 0;
  bool timed = true;
  std::shared_ptr<Recorded> last = {};  // null: there was none
  bool is_over() const { return last == nullptr || last->is_done; }
};

}  // namespace

struct CUevent_st {
  std::shared_ptr<EventState> state;
};

namespace {

std::set<cudaEvent_t>& live_events() {
  static auto* events = new std::set<cudaEvent_t>;
  return *events;
}

std::shared_ptr<EventState> event_of(cudaEvent_t handle) {
  return live_events().contains(handle) ? handle->state : nullptr;
}

cudaError_t make_stream(cudaStream_t* handle, unsigned flags) {
  if (handle == nullptr || flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
  *handle = new CUstream_st{machine().make_stream(current_device(), flags != cudaStreamNonBlocking)};
  remember_stream(*handle);
  return cudaSuccess;
}

cudaError_t make_event(cudaEvent_t* handle, unsigned flags) {
  if (handle == nullptr) return cudaErrorInvalidValue;
  auto state = std::make_shared<EventState>();
  state->device = current_device();
  state->timed = (flags & cudaEventDisableTiming) == 0;
  *handle = new CUevent_st{state};
  live_events().insert(*handle);
  return cudaSuccess;
}

cudaError_t record(cudaEvent_t event, cudaStream_t stream_handle) {
  const auto state = event_of(event);
  const auto stream = stream_of(stream_handle);
  if (state == nullptr || stream == nullptr || state->device != stream->device) return cudaErrorInvalidResourceHandle;
  if (spoils_capture(*stream)) return cudaErrorStreamCaptureUnsupported;
  state->last = std::make_shared<Recorded>();
  machine().enqueue(stream, {[] { return std::string("the record of an event"); },
                             nullptr,
                             nullptr,
                             [recorded = state->last, stream = stream.get()] {
                               *recorded = {.is_done = true, .at = stream->at, .clock = stream->clock};
                             },
                             {}});
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return call("cudaStreamCreate", [&](Lock&) { return make_stream(stream, cudaStreamDefault); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return call("cudaStreamCreateWithFlags", [&](Lock&) { return make_stream(stream, flags); });
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return call("cudaStreamCreateWithPriority", [&](Lock&) { return make_stream(stream, flags); });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call("cudaStreamDestroy", [&](Lock&) {
    if (!forget_stream(stream)) return cudaErrorInvalidResourceHandle;
    delete stream;  // the machine keeps its work until it is done
    return cudaSuccess;
  });
}

cudaError_t cudaStreamGetDevice(cudaStream_t handle, int* device) {
  return call("cudaStreamGetDevice", [&](Lock&) {
    const auto stream = stream_of(handle);
    if (stream == nullptr || device == nullptr) return cudaErrorInvalidResourceHandle;
    *device = stream->device;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return call("cudaStreamSynchronize", [&](Lock& lock) {
    const auto stream = stream_of(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (spoils_capture(*stream)) return cudaErrorStreamCaptureUnsupported;
    machine().wait_for(lock, *stream, stream->num_queued);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return call("cudaStreamQuery", [&](Lock& lock) {
    const auto stream = stream_of(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (spoils_capture(*stream)) return cudaErrorStreamCaptureUnsupported;
    machine().run_one(lock, stream->device);
    if (!stream->is_done()) return cudaErrorNotReady;
    machine().host_knows(stream->device, stream->clock);
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceSynchronize() {
  return call("cudaDeviceSynchronize", [&](Lock& lock) {
    if (spoils_captures(current_device())) return cudaErrorStreamCaptureUnsupported;
    const auto streams = machine().device(current_device()).streams;
    std::vector<std::uint64_t> queued;
    for (const auto& stream : streams) queued.push_back(stream->num_queued);
    for (std::size_t i = 0; i < streams.size(); ++i) machine().wait_for(lock, *streams[i], queued[i]);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t event, unsigned) {
  return call("cudaStreamWaitEvent", [&](Lock&) {
    const auto state = event_of(event);
    const auto stream = stream_of(stream_handle);
    if (state == nullptr || stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (spoils_capture(*stream)) return cudaErrorStreamCaptureUnsupported;
    if (state->last == nullptr) return cudaSuccess;
    machine().enqueue(stream,
                      {[device = state->device] { return "the wait for an event of GPU " + std::to_string(device); },
                       [recorded = state->last] { return recorded->is_done; },
                       nullptr,
                       [recorded = state->last, stream = stream.get()] {
                         merge(stream->clock, recorded->clock);
                         stream->at = std::max(stream->at, recorded->at);
                       },
                       {}});
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  return call("cudaLaunchHostFunc", [&](Lock&) {
    const auto stream = stream_of(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    machine().enqueue(
        stream, {[] { return std::string("a function of the host"); }, nullptr, [=] { function(data); }, nullptr, {}});
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return call("cudaEventCreate", [&](Lock&) { return make_event(event, cudaEventDefault); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call("cudaEventCreateWithFlags", [&](Lock&) { return make_event(event, flags); });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return call("cudaEventDestroy", [&](Lock&) {
    if (live_events().erase(event) == 0) return cudaErrorInvalidResourceHandle;
    delete event;
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call("cudaEventRecord", [&](Lock&) { return record(event, stream); });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return call("cudaEventRecordWithFlags", [&](Lock&) { return record(event, stream); });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return call("cudaEventQuery", [&](Lock& lock) {
    const auto state = event_of(event);
    if (state == nullptr) return cudaErrorInvalidResourceHandle;
    machine().run_one(lock, state->device);
    if (!state->is_over()) return cudaErrorNotReady;
    if (state->last != nullptr) machine().host_knows(state->device, state->last->clock);
    return cudaSuccess;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call("cudaEventSynchronize", [&](Lock& lock) {
    const auto state = event_of(event);
    if (state == nullptr) return cudaErrorInvalidResourceHandle;
    const std::shared_ptr<Recorded> recorded = state->last;
    if (recorded == nullptr) return cudaSuccess;
    machine().run_until(lock, state->device, [&] { return recorded->is_done; });
    machine().host_knows(state->device, recorded->clock);
    return cudaSuccess;
  });
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  return call("cudaEventElapsedTime", [&](Lock&) {
    const auto a = event_of(start);
    const auto b = event_of(end);
    if (a == nullptr || b == nullptr || !a->timed || !b->timed || a->last == nullptr || b->last == nullptr)
      return cudaErrorInvalidResourceHandle;
    if (!a->is_over() || !b->is_over()) return cudaErrorNotReady;
    *ms = std::chrono::duration<float, std::milli>(b->last->at - a->last->at).count();
    return cudaSuccess;
  });
}

}  // extern "C"
