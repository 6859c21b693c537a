// Bytes on a device: copied, cleared, and brought there and back. Everything but download is queued where the device
// has a queue.
//
//     upload(device, host, values, bytes);             // the host's may change as soon as it returns
//     copy_rows(device, from, 256, to, 1024, 256, n);  // n rows of 256 bytes, into every fourth of a row
#pragma once

#include <cstdint>
#include <memory>

#include "device_set.h"

namespace limbeck::kernels {

/// Within the device; the ranges do not overlap.
template <class D>
void copy_bytes(const D& device, const void* from, void* to, std::int64_t bytes);

/// `rows` rows of `bytes` bytes, which begin every `from_pitch` and every `to_pitch` bytes, within the device.
template <class D>
void copy_rows(const D& device, const void* from, std::int64_t from_pitch, void* to, std::int64_t to_pitch,
               std::int64_t bytes, std::int64_t rows);

/// Zeros.
template <class D>
void clear_bytes(const D& device, void* to, std::int64_t bytes);

/// From the host to the device. What is read has been read when it returns.
template <class D>
void upload(const D& device, const void* host, void* to, std::int64_t bytes);

/// A place in a device's queue.
class Event {
 public:
  virtual ~Event() = default;
  virtual void wait() = 0;  // the host, until the device has come so far
};
using EventPtr = std::shared_ptr<Event>;  // null: a device without a queue

/// From the device to the host, which has it once the event has been waited for.
template <class D>
EventPtr download(const D& device, const void* from, void* host, std::int64_t bytes);

/// Memory from the system in large pieces: the device's own, or the host's from which the device copies fastest. Null
/// where it is refused.
template <class D>
void* allocate_segment(const D& device, std::int64_t bytes);
template <class D>
void free_segment(const D& device, void* segment, std::int64_t bytes);
template <class D>
void* allocate_host_segment(const D& device, std::int64_t bytes);
template <class D>
void free_host_segment(const D& device, void* segment, std::int64_t bytes);

}  // namespace limbeck::kernels
