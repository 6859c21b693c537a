// The factor that an optimizer's kernels scale gradients by, read where they run.
#pragma once

#include "gpu.h"

namespace limbeck::kernels {

__device__ inline bool is_scale_finite(const double* grad_scale) {
  return grad_scale == nullptr || *grad_scale - *grad_scale == 0;
}

template <class T>
__device__ T read_scale(const double* grad_scale) {
  return grad_scale == nullptr ? T{1} : static_cast<T>(*grad_scale);
}

}  // namespace limbeck::kernels
