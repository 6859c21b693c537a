// Attention by cuDNN's graphs, of which one is made and kept for each shape.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/cuda/packed_attention.h"

namespace limbeck::kernels {

/// Whether some of the sequences may have no tokens.
bool takes_empty_sequences();

/// Bytes of workspace that a run takes; none where cuDNN has no plan for the shape on this GPU, before Hopper, and
/// where cuDNN is older than 9.18.1, whose backward read what nobody had written. A plan's first making compiles
/// kernels: seconds. A backward whose sums have one order works in 2 sequences heads longest^2 bytes.
std::optional<std::int64_t> forward_workspace(const Cuda& cuda, const PackedShape& shape);
std::optional<std::int64_t> backward_workspace(const Cuda& cuda, const PackedShape& shape);

/// With the workspace that was asked for, on the stream's turn. The backward's sums have one order.
void run_forward(const Cuda& cuda, const PackedShape& shape, const PackedPlaces& places, const PackedForward& tensors,
                 void* workspace);
void run_backward(const Cuda& cuda, const PackedShape& shape, const PackedPlaces& places, const PackedBackward& tensors,
                  void* workspace);

/// Why cuDNN would have no plan for the shape on the GPU that `properties` describes (the JSON of a
/// CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR); empty where it has one. No GPU is needed.
std::string why_no_plan(const PackedShape& shape, bool backward, const std::string& properties, int architecture);

}  // namespace limbeck::kernels
