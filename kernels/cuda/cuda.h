// The tag that a GPU's kernels are chosen by: which GPU, and what a rank keeps there (its stream, the handles of the
// libraries, their workspace). Copies share it; two ranks must not. A kernel is queued and the call returns: what it
// reads must stay until the stream has come so far (core/device/memory.h sees to it).
//
//     Cuda cuda = make_cuda(/*ordinal=*/0);
//     rms_norm(cuda, x, weight, y, inverse_rms, rows, width, eps);
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace limbeck::kernels {

struct CudaState;  // kernels/cuda/cuda_state.h

struct Cuda {
  static constexpr bool reads_factors_as_they_lie = true;
  // For each chunk the gradient of the whole head is read and written: what a few chunks take would be most of a step.
  static constexpr std::int64_t logits_bytes = std::int64_t{512} << 20;

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
