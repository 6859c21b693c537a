// The factor that an optimizer's kernels scale gradients by, which a device has in its memory.
#pragma once

#include <cmath>

namespace limbeck::kernels {

inline bool is_finite(const double* grad_scale) { return grad_scale == nullptr || std::isfinite(*grad_scale); }

template <class T>
T scale_of(const double* grad_scale) {
  return grad_scale == nullptr ? T{1} : static_cast<T>(*grad_scale);
}

}  // namespace limbeck::kernels
