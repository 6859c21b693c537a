// Copies and fills, of rows that lie anywhere. Where CUDA stages memory of the host that is not pinned, so is it here:
// it is read at once, and written before the call returns.
#include <cuda_runtime.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_emulation/runtime/calls.h"
#include "tests/cuda_emulation/runtime/host_memory.h"

using namespace limbeck::emulation;

namespace {

struct Rows {
  std::byte* begin;
  std::size_t pitch, width, height;
  std::size_t extent() const { return width == 0 || height == 0 ? 0 : pitch * (height - 1) + width; }
  std::byte* row(std::size_t i) const { return begin + i * pitch; }
};

Rows rows_at(const void* begin, std::size_t pitch, std::size_t width, std::size_t height) {
  return {static_cast<std::byte*>(const_cast<void*>(begin)), pitch, width, height};
}

void copy_rows(const Rows& to, const Rows& from) {
  for (std::size_t i = 0; i < to.height; ++i) std::memmove(to.row(i), from.row(i), to.width);
}

/// Whether a side of a copy is memory that exists where `kind` says that it is: of a GPU or of the host.
bool is_valid(const Rows& rows, bool expected_on_device, bool any) {
  const int device = machine().device_of(rows.begin);
  if (!any && (device >= 0) != expected_on_device) return false;
  return device < 0 || machine().device(device).memory.is_allocated(rows.begin, rows.extent());
}

/// Memory of the host that CUDA stages.
bool is_pageable(const Rows& rows) {
  return machine().device_of(rows.begin) < 0 && !is_pinned(rows.begin, rows.extent());
}

std::vector<MemoryRange> ranges_of(const Rows& rows) {
  if (rows.pitch == rows.width) return {{rows.begin, rows.extent()}};
  std::vector<MemoryRange> ranges;
  for (std::size_t i = 0; i < rows.height; ++i) ranges.push_back({rows.row(i), rows.width});
  return ranges;
}

cudaError_t copy(Lock& lock, const Rows& to, Rows from, cudaMemcpyKind kind, cudaStream_t handle, bool wait) {
  const auto stream = stream_of(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (to.pitch < to.width || from.pitch < from.width) return cudaErrorInvalidPitchValue;
  if (to.extent() == 0) return cudaSuccess;
  if ((wait || is_pageable(from) || is_pageable(to)) && spoils_capture(*stream))
    return cudaErrorStreamCaptureUnsupported;
  const bool any = kind == cudaMemcpyDefault;
  if (!is_valid(to, kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice, any) ||
      !is_valid(from, kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice, any))
    return cudaErrorInvalidValue;
  Operation operation;
  operation.what = [] { return std::string("a copy"); };
  for (const Rows& side : {to, from})
    if (const int device = machine().device_of(side.begin); device >= 0) operation.devices.push_back(device);
  std::shared_ptr<std::vector<std::byte>> staged;
  if (is_pageable(from)) {
    staged = std::make_shared<std::vector<std::byte>>(from.begin, from.begin + from.extent());
    from.begin = staged->data();
  }
  operation.run = [to, from, staged] { copy_rows(to, from); };
  if (staged == nullptr) operation.reads = ranges_of(from);
  operation.writes = ranges_of(to);
  machine().enqueue(stream, std::move(operation));
  if (wait || is_pageable(to)) machine().wait_for(lock, *stream, stream->num_queued);
  return cudaSuccess;
}

cudaError_t fill(Lock& lock, const Rows& to, int value, cudaStream_t handle, bool wait) {
  const auto stream = stream_of(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (to.pitch < to.width) return cudaErrorInvalidPitchValue;
  if (to.extent() == 0) return cudaSuccess;
  if (wait && spoils_capture(*stream)) return cudaErrorStreamCaptureUnsupported;
  if (!is_valid(to, /*expected_on_device=*/true, is_pinned(to.begin, to.extent()))) return cudaErrorInvalidValue;
  Operation operation;
  operation.what = [] { return std::string("a fill"); };
  if (const int device = machine().device_of(to.begin); device >= 0) operation.devices.push_back(device);
  operation.run = [to, value] {
    for (std::size_t i = 0; i < to.height; ++i) std::memset(to.row(i), value, to.width);
  };
  operation.writes = ranges_of(to);
  machine().enqueue(stream, std::move(operation));
  if (wait) machine().wait_for(lock, *stream, stream->num_queued);
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return call("cudaMemcpy", [&](Lock& lock) {
    return copy(lock, rows_at(to, bytes, bytes, 1), rows_at(from, bytes, bytes, 1), kind, nullptr, true);
  });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return call("cudaMemcpyAsync", [&](Lock& lock) {
    return copy(lock, rows_at(to, bytes, bytes, 1), rows_at(from, bytes, bytes, 1), kind, stream, false);
  });
}

cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, std::size_t bytes, cudaStream_t stream) {
  return call("cudaMemcpyPeerAsync", [&](Lock& lock) {
    return copy(lock, rows_at(to, bytes, bytes, 1), rows_at(from, bytes, bytes, 1), cudaMemcpyDeviceToDevice, stream,
                false);
  });
}

cudaError_t cudaMemcpy2D(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
                         std::size_t height, cudaMemcpyKind kind) {
  return call("cudaMemcpy2D", [&](Lock& lock) {
    return copy(lock, rows_at(to, to_pitch, width, height), rows_at(from, from_pitch, width, height), kind, nullptr,
                true);
  });
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return call("cudaMemcpy2DAsync", [&](Lock& lock) {
    return copy(lock, rows_at(to, to_pitch, width, height), rows_at(from, from_pitch, width, height), kind, stream,
                false);
  });
}

cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  return call("cudaMemset", [&](Lock& lock) { return fill(lock, rows_at(to, bytes, bytes, 1), value, nullptr, true); });
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return call("cudaMemsetAsync",
              [&](Lock& lock) { return fill(lock, rows_at(to, bytes, bytes, 1), value, stream, false); });
}

cudaError_t cudaMemset2DAsync(void* to, std::size_t pitch, int value, std::size_t width, std::size_t height,
                              cudaStream_t stream) {
  return call("cudaMemset2DAsync",
              [&](Lock& lock) { return fill(lock, rows_at(to, pitch, width, height), value, stream, false); });
}

}  // extern "C"
