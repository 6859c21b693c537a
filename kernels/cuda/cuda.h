// The tag that a GPU's kernels are chosen by: which GPU, and what a rank keeps there (its stream, the handles of the
// libraries, their workspace). Copies share it; two ranks must not. A kernel is queued and the call returns: what it
// reads must stay until the stream has come so far (core/device/memory.h sees to it).
//
//     Cuda cuda = make_cuda(/*ordinal=*/0);
//     rms_norm(cuda, x, weight, y, inverse_rms, rows, width, eps);
#pragma once

#include <memory>
#include <string>

namespace limbeck::kernels {

struct CudaState;  // kernels/cuda/cuda_state.h

struct Cuda {
  static constexpr bool reads_factors_as_they_lie = true;

  int ordinal = 0;  // among those that the process sees
  std::shared_ptr<CudaState> state;
};

/// That this process sees; 0 also where there is no driver.
int num_cuda_devices();
/// What CUDA says where there are none.
std::string why_no_cuda_device();

/// Throws std::runtime_error where there is no such GPU, or no driver.
Cuda make_cuda(int ordinal);

}  // namespace limbeck::kernels
