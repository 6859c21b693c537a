// Where a device's tensors lie that it has no room for.
//
//     Tensor moment = Tensor::zeros(offload_memory(value.memory()), DType::F32, value.shape());
#pragma once

#include "core/device/memory.h"

namespace limbeck::core {

/// Memory of the host, page-locked, which copies are fastest from and which a GPU's kernels read and write under the
/// same addresses: the memory itself where that is the host's. The host reads and writes it once those kernels are
/// done. Of a memory that holds nothing another such.
inline MemoryPtr offload_memory(const MemoryPtr& memory) {
  return memory->is_imagined() ? Memory::imagined({}) : memory->host();
}

}  // namespace limbeck::core
