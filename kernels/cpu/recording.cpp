#include "kernels/recording.h"

#include <stdexcept>

namespace limbeck::kernels {

template <class D>
void begin_recording(const D&) {
  throw std::runtime_error("a CPU has no queue of work that could be recorded, expected a GPU");
}

template <class D>
RecordingPtr end_recording(const D&) {
  return nullptr;
}

template void begin_recording(const Cpu&);
template RecordingPtr end_recording(const Cpu&);

}  // namespace limbeck::kernels
