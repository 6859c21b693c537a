// How each of cuBLASLt's functions begins, as runtime/calls.h.
#pragma once

#include <cublasLt.h>

#include "tests/cuda_emulation/runtime/calls.h"

namespace limbeck::emulation {

template <class F>
cublasStatus_t blas_call(const char* name, F&& f) {
  if (is_to_fail(name)) return CUBLAS_STATUS_INTERNAL_ERROR;
  Lock lock(machine().mutex);
  return f(lock);
}

}  // namespace limbeck::emulation
