// Experts that take no more than their capacity.
//
//     limit_capacity(cpu, selection, sequence, kept, {T, E, K}, /*factor=*/1.25);
#pragma once

#include <cstdint>

#include "device_set.h"

namespace limbeck::kernels {

struct CapacityShape {
  std::int64_t tokens, experts, selected;
};

/// kept [tokens, selected]: the selection, with -1 for what is dropped. Of a sequence of S tokens, a run of equal
/// numbers in `sequence`, each expert keeps its first ceil(factor S K / E) assignments in the order of the tokens.
/// `kept` may be `selection`.
template <class D>
void limit_capacity(const D& device, const std::int32_t* selection, const std::int32_t* sequence, std::int32_t* kept,
                    const CapacityShape& shape, double factor);

}  // namespace limbeck::kernels
