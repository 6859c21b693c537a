// kernels/cuda/with_cudnn/attention_library.h on the emulation: attention as cuDNN is asked for it, by kernels that
// take a thread a query or a key. What the graphs say to cuDNN is tests/kernels/cuda/cudnn's.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/cuda/packed_attention.h"

namespace limbeck::kernels {

bool takes_empty_sequences();

/// None for heads wider than 128: some shapes are refused.
std::optional<std::int64_t> forward_workspace(const Cuda& cuda, const PackedShape& shape);
std::optional<std::int64_t> backward_workspace(const Cuda& cuda, const PackedShape& shape);

void run_forward(const Cuda& cuda, const PackedShape& shape, const PackedPlaces& places, const PackedForward& tensors,
                 void* workspace);
void run_backward(const Cuda& cuda, const PackedShape& shape, const PackedPlaces& places, const PackedBackward& tensors,
                  void* workspace);

}  // namespace limbeck::kernels
