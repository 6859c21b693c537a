#include "launch/run/memory_parts.h"

namespace limbeck::launch {

std::vector<MemoryPart> parts_of(const MemoryParts& m) {
  return {{"parameters", "parameters", m.parameters},
          {"teacher", "the teacher's", m.teacher},
          {"gradients", "gradients", m.gradients},
          {"optimizer", "optimizer state", m.optimizer},
          {"other", "tables, forms of weights", m.other},
          {"copy", "copy for saving", m.copy},
          {"activations", "activations and buffers", m.activations},
          {"peak", "at the peak", m.peak()},
          {"start", "before the first step", m.start},
          {"held", "taken from the system", m.held},
          {"host", "kept in the host's memory", m.host}};
}

}  // namespace limbeck::launch
