// What a rank keeps on a GPU, and the check of CUDA's answers.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <source_location>

#include "kernels/cuda/cuda.h"

namespace limbeck::kernels {

struct CudaState {
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // what NVIDIA advises for Hopper

  cudaStream_t stream = nullptr;  // the rank's kernels run here, in order
  cublasLtHandle_t blas = nullptr;
  void* workspace = nullptr;  // [workspace_bytes] on the GPU, of the products
  int num_multiprocessors = 1;

  CudaState() = default;
  ~CudaState();
  CudaState(const CudaState&) = delete;
  CudaState& operator=(const CudaState&) = delete;
};

/// Throws std::runtime_error with CUDA's words and the place unless all went well.
void check_cuda(cudaError_t error, std::source_location where = std::source_location::current());
void check_blas(cublasStatus_t status, std::source_location where = std::source_location::current());

}  // namespace limbeck::kernels
