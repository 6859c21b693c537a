// Memory of the host that was made for the GPU (pinned), which alone it reads and writes while the host goes on.
// The machine's lock is held.
#pragma once

#include <cstddef>

namespace limbeck::emulation {

void pin(void* address, std::size_t bytes);
/// Whether something was pinned that begins there.
bool unpin(void* address);
bool is_pinned(const void* address, std::size_t bytes);

}  // namespace limbeck::emulation
