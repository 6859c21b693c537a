// Work of a memory's device that is recorded once and done again and again, at the same addresses
// (kernels/recording.h).
//
//     const RecordedWork step(memory, [&] { ... kernels ... });     // which are recorded and do not run
//     step.run();                                                   // they run, as often as this is called
//
// What it reads that changes lies in tensors that were there before, and is written to between two runs. What the work
// allocates and frees is its own: it may not free what it uses of what was there before, nor leave anything behind but
// what the caller keeps. Versions of tensors (tensor.h) are raised once, by the recording.
#pragma once

#include <functional>
#include <vector>

#include "core/device/index_check.h"
#include "core/device/memory.h"
#include "kernels/recording.h"

namespace limbeck::core {

class RecordedWork {
 public:
  /// Throws what `queue` throws, and where its work cannot be done again: on a CPU; where it reads or writes values of
  /// the host; where it frees memory that it used and that was there before.
  RecordedWork(MemoryPtr memory, const std::function<void()>& queue);
  /// The memory that it worked in is for all again.
  ~RecordedWork();
  RecordedWork(const RecordedWork&) = delete;
  RecordedWork& operator=(const RecordedWork&) = delete;

  /// Queues it. Throws where memory that it uses and that was there before has been freed since.
  void run() const;

 private:
  void check_memory() const;

  MemoryPtr memory_;
  kernels::RecordingPtr recording_;
  std::vector<IndexMessage> checks_;
};

}  // namespace limbeck::core
