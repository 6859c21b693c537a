// Without cuDNN: attention is Limbeck's own.
#pragma once

#include <optional>

#include "kernels/cuda/packed_attention.h"

namespace limbeck::kernels {

inline bool takes_empty_sequences() { return false; }
inline std::optional<std::int64_t> forward_workspace(const Cuda&, const PackedShape&) { return std::nullopt; }
inline std::optional<std::int64_t> backward_workspace(const Cuda&, const PackedShape&) { return std::nullopt; }
inline void run_forward(const Cuda&, const PackedShape&, const PackedPlaces&, const PackedForward&, void*) {}
inline void run_backward(const Cuda&, const PackedShape&, const PackedPlaces&, const PackedBackward&, void*) {}

}  // namespace limbeck::kernels
