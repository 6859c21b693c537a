// What kernels/cuda/cuda_state.h declares, as little of it as the samples need: their state is a stream that is
// another's.
#include "kernels/cuda/cuda_state.h"

#include <fmt/format.h>

#include <stdexcept>

namespace limbeck::kernels {

Staging::~Staging() = default;

CudaState::CudaState() : staging(*this) {}
CudaState::~CudaState() = default;

void check_cuda(cudaError_t error, std::source_location where) {
  if (error != cudaSuccess)
    throw std::runtime_error(fmt::format("{}:{}: {}", where.file_name(), where.line(), cudaGetErrorString(error)));
}

}  // namespace limbeck::kernels
