// The products of the tensor cores and the loads that feed them, fragments as PTX defines them. A whole warp takes
// part.
#pragma once

#include <cstdint>
#include <source_location>

namespace limbeck::emulation {

/// ldmatrix.x4, or .trans: `row` is this lane's row of 16 bytes in shared memory.
void load_matrices(std::uint32_t (&m)[4], const void* row, bool transposed, const std::source_location& where);

/// mma.m16n8k16 of bfloat16, sums in float32.
void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  const std::source_location& where);

}  // namespace limbeck::emulation
