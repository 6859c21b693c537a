// What is known of a GPU by its number among those that the process sees: how much of its memory is nobody's, and which
// of the machine's it is.
#pragma once

#include <cstdint>
#include <string>

namespace limbeck::kernels {

/// Bytes. Throws std::runtime_error in CUDA's words, as the next one.
std::int64_t free_cuda_bytes(int ordinal);

/// Where it is on the machine's PCI bus ("0000:3b:00.0"), the same for each process that sees it, by whatever number.
std::string bus_of_cuda(int ordinal);

}  // namespace limbeck::kernels
