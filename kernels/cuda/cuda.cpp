#include "kernels/cuda/cuda.h"

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/cuda/cuda_state.h"
#include "kernels/cuda/polling.h"

namespace limbeck::kernels {
namespace {

/// "kernels/cuda/x.cu:12", however the compiler was given the file.
std::string place(const std::source_location& where) {
  const std::string_view file = where.file_name();
  const std::size_t at = file.rfind("/kernels/");
  return std::string(at == std::string_view::npos ? file : file.substr(at + 1)) + ":" + std::to_string(where.line());
}

cudaError_t count_devices(int& count) {
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) cudaGetLastError();  // which would be found behind the next launch
  return error;
}

cudaStream_t new_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}

}  // namespace

void check_cuda(cudaError_t error, std::source_location where) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) +
                           "), at " + place(where));
}

void check_blas(cublasStatus_t status, std::source_location where) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string("cuBLASLt: ") + cublasLtGetStatusString(status) + " (" +
                           cublasLtGetStatusName(status) + "), at " + place(where));
}

CudaState::CudaState() : stream(new_stream()), staging(*this) {
  int ordinal = 0;
  check_cuda(cudaGetDevice(&ordinal));
  int major = 0, minor = 0;
  check_cuda(cudaDeviceGetAttribute(&num_multiprocessors, cudaDevAttrMultiProcessorCount, ordinal));
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal));
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal));
  architecture = 10 * major + minor;
  check_cuda(cudaMalloc(&workspace, workspace_bytes));
  check_blas(cublasLtCreate(&blas));
}

CudaState::~CudaState() {
  if (is_given_up) {
    new std::shared_ptr(std::move(attention));  // left as it is
    return;
  }
  // What fails here has failed before, where somebody could be told.
  attention.reset();
  if (blas != nullptr) cublasLtDestroy(blas);
  cudaStreamSynchronize(stream);
  cudaFree(workspace);
  cudaFree(pieces_);
  cudaStreamDestroy(stream);
}

bool is_done(cudaEvent_t event) {
  const cudaError_t answer = cudaEventQuery(event);
  if (answer == cudaErrorNotReady)
    cudaGetLastError();  // which would be found behind the next launch
  else
    check_cuda(answer);
  return answer == cudaSuccess;
}

void CudaState::check_runs(const char* what) const {
  if (is_recording) throw std::runtime_error(std::string(what) + " while a GPU's work is recorded");
}

void CudaState::wait_for(cudaEvent_t event) const {
  if (!while_waiting) return check_cuda(cudaEventSynchronize(event));
  for (Polling polling; !is_done(event); polling.pause()) while_waiting();
  while_waiting();
}

void* CudaState::pieces() {
  if (pieces_ == nullptr) check_cuda(cudaMalloc(&pieces_, pieces_bytes));
  return pieces_;
}

int num_cuda_devices() {
  int count = 0;
  return count_devices(count) == cudaSuccess ? count : 0;
}

std::string why_no_cuda_device() {
  int count = 0, driver = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) return "this machine has no driver for them";
  return cudaGetErrorString(count_devices(count));
}

Cuda make_cuda(int ordinal) {
  int count = 0;
  if (count_devices(count) != cudaSuccess) throw std::runtime_error("no GPU can be used: " + why_no_cuda_device());
  if (ordinal < 0 || ordinal >= count)
    throw std::runtime_error("there is no GPU " + std::to_string(ordinal) + ", expected one below " +
                             std::to_string(count) + ", the number that this process sees");
  check_cuda(cudaSetDevice(ordinal));
  return {ordinal, std::make_shared<CudaState>()};
}

}  // namespace limbeck::kernels
