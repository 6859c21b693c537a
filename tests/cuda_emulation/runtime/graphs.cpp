// Graphs that are captured from one stream. More than one stream in a capture is not to be had here, nor events in it.
#include <cuda_runtime.h>

#include <memory>

#include "tests/cuda_emulation/runtime/calls.h"

using namespace limbeck::emulation;

struct CUgraph_st {
  std::shared_ptr<Capture> capture;
};
struct CUgraphExec_st {
  std::shared_ptr<const Capture> capture;
};

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode) {
  return call("cudaStreamBeginCapture", [&](Lock&) {
    const auto stream = stream_of(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->blocking || stream->capture != nullptr) return cudaErrorIllegalState;
    stream->capture = std::make_shared<Capture>();
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  return call("cudaStreamEndCapture", [&](Lock&) {
    const auto stream = stream_of(handle);
    if (stream == nullptr || graph == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->capture == nullptr) return cudaErrorIllegalState;
    const auto capture = std::exchange(stream->capture, nullptr);
    *graph = nullptr;
    if (!capture->is_valid) return cudaErrorStreamCaptureInvalidated;
    *graph = new CUgraph_st{capture};
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  return call("cudaGraphInstantiate", [&](Lock&) {
    if (executable == nullptr || graph == nullptr) return cudaErrorInvalidValue;
    *executable = new CUgraphExec_st{graph->capture};
    return cudaSuccess;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  return call("cudaGraphLaunch", [&](Lock&) {
    const auto stream = stream_of(handle);
    if (executable == nullptr || stream == nullptr) return cudaErrorInvalidResourceHandle;
    for (const Operation& operation : executable->capture->operations) machine().enqueue(stream, operation);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return call("cudaGraphDestroy", [&](Lock&) {
    delete graph;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return call("cudaGraphExecDestroy", [&](Lock&) {
    delete executable;
    return cudaSuccess;
  });
}

}  // extern "C"
