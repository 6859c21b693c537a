// What a device's queue is given, kept as a whole that it can be given again: one call instead of thousands.
//
//     begin_recording(device);
//     ... kernels ...                                     // which do not run now
//     const RecordingPtr step = end_recording(device);
//     step->queue();                                      // they do, as often as this is called
//
// Kernels read and write the memory that they were given, whatever it is others' by then; numbers that they were given
// stay as they were. Meanwhile nothing is uploaded or downloaded, which throws, and nothing is waited for.
#pragma once

#include <memory>

#include "device_set.h"

namespace limbeck::kernels {

class Recording {
 public:
  virtual ~Recording() = default;
  virtual void queue() = 0;
};
using RecordingPtr = std::unique_ptr<Recording>;

/// Throw std::runtime_error where the device has no queue: on a CPU.
template <class D>
void begin_recording(const D& device);
/// What was queued since begin_recording; throws too where that cannot be recorded.
template <class D>
RecordingPtr end_recording(const D& device);

}  // namespace limbeck::kernels
