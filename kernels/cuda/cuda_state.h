// What a rank keeps on a GPU, and the check of CUDA's answers.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <source_location>

#include "kernels/cuda/blas_plans.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/staging.h"

namespace limbeck::kernels {

class AttentionPlans;  // of cuDNN's, in builds with it

struct CudaState {
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // what NVIDIA advises for Hopper
  static constexpr std::size_t pieces_bytes = std::size_t{256} << 20;

  /// Makes a stream, the library's handle and the workspace on the GPU that is the thread's current one.
  CudaState();
  ~CudaState();
  CudaState(const CudaState&) = delete;
  CudaState& operator=(const CudaState&) = delete;

  /// The host waits until the GPU has come so far.
  void wait_for(cudaEvent_t event) const;

  /// Throws, naming what the host would do, while the stream's work is recorded (kernels/recording.h).
  void check_runs(const char* what) const;

  /// [pieces_bytes] on the GPU for factors that are expanded for a product, or what a library works in; taken when they
  /// are first asked for.
  void* pieces();

  cudaStream_t stream = nullptr;  // the rank's kernels run here, in order
  cublasLtHandle_t blas = nullptr;
  void* workspace = nullptr;  // [workspace_bytes] on the GPU: of a product, or of the kernels of one call
  int num_multiprocessors = 1;
  int architecture = 0;  // 80 is an A100, 90 an H100
  BlasPlans plans;
  std::shared_ptr<AttentionPlans> attention;

  /// Called while the host waits, again and again, and once behind: what it throws ends the wait, and says that what
  /// was waited for is worth nothing. Null: nobody wants to know.
  std::function<void()> while_waiting;
  bool is_recording = false;
  /// What is queued may never come to an end: nothing is waited for any more, nor freed, which would wait too.
  bool is_given_up = false;

  Staging staging;

 private:
  void* pieces_ = nullptr;
};

/// Whether the GPU has come so far; throws as check_cuda.
bool is_done(cudaEvent_t event);

/// Throws std::runtime_error with CUDA's words and the place unless all went well.
void check_cuda(cudaError_t error, std::source_location where = std::source_location::current());
void check_blas(cublasStatus_t status, std::source_location where = std::source_location::current());

}  // namespace limbeck::kernels
