// A block's shared memory: what the launch asks for lies before a page that nothing may touch; __shared__ variables are
// those of the thread of the machine that runs the block.
#pragma once

#include <cstddef>

namespace limbeck::emulation {

/// Of a block, as compute capability 8.0 has it.
inline constexpr std::size_t max_shared_bytes = std::size_t{163} << 10;

/// Makes `bytes` of dynamic shared memory anew, all of them 0xff, for the block that runs next on this thread.
void renew_dynamic_shared(std::size_t bytes);

/// Where it begins, a multiple of 128.
void* dynamic_shared_begin();

/// Whether the address is of dynamic shared memory or of a __shared__ variable.
bool is_shared(const void* address);

}  // namespace limbeck::emulation
