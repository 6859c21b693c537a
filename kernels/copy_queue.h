// A second queue of a device, of copies between its memory and the host's, which go on beside the kernels of its own.
//
//     const CopyQueuePtr copies = make_copy_queue(device);
//     copies->follow_device();                      // `to` may be in use by what is queued before
//     copies->upload(weights, to, bytes);
//     ... kernels that do not read `to` ...
//     copies->hold_device();                        // behind this they may
//
// Where a device has no queue a copy is made at once, and nothing is to be waited for.
#pragma once

#include <cstdint>
#include <memory>

#include "device_set.h"

namespace limbeck::kernels {

class CopyQueue {
 public:
  /// Waits for what is queued, unless an exception is under way: that may be behind what never comes to an end.
  virtual ~CopyQueue() = default;
  /// Copies from here on begin behind what the device's own queue has now.
  virtual void follow_device() = 0;
  /// What the device's own queue gets from here on begins behind the copies that were queued.
  virtual void hold_device() = 0;
  /// From the host's memory (core::Memory::host()), which must stay as it is until the copy has been made; throws where
  /// the device's work is recorded.
  virtual void upload(const void* host, void* to, std::int64_t bytes) = 0;
};
using CopyQueuePtr = std::unique_ptr<CopyQueue>;

template <class D>
CopyQueuePtr make_copy_queue(const D& device);

}  // namespace limbeck::kernels
