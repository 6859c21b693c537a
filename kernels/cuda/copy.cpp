#include "kernels/copy.h"

#include <utility>

#include "kernels/cuda/cuda_state.h"

namespace limbeck::kernels {
namespace {

class CudaEvent final : public Event {
 public:
  explicit CudaEvent(std::shared_ptr<const CudaState> state) : state_(std::move(state)) {
    check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
    check_cuda(cudaEventRecord(event_, state_->stream));
  }
  ~CudaEvent() override { cudaEventDestroy(event_); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  void wait() override { state_->wait_for(event_); }

 private:
  std::shared_ptr<const CudaState> state_;
  cudaEvent_t event_ = nullptr;
};

}  // namespace

template <class D>
void copy_bytes(const D& cuda, const void* from, void* to, std::int64_t bytes) {
  if (bytes > 0)
    check_cuda(
        cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, cuda.state->stream));
}

template <class D>
void copy_rows(const D& cuda, const void* from, std::int64_t from_pitch, void* to, std::int64_t to_pitch,
               std::int64_t bytes, std::int64_t rows) {
  if (bytes > 0 && rows > 0)
    check_cuda(cudaMemcpy2DAsync(to, static_cast<std::size_t>(to_pitch), from, static_cast<std::size_t>(from_pitch),
                                 static_cast<std::size_t>(bytes), static_cast<std::size_t>(rows),
                                 cudaMemcpyDeviceToDevice, cuda.state->stream));
}

template <class D>
void clear_bytes(const D& cuda, void* to, std::int64_t bytes) {
  if (bytes > 0) check_cuda(cudaMemsetAsync(to, 0, static_cast<std::size_t>(bytes), cuda.state->stream));
}

template <class D>
void upload(const D& cuda, const void* host, void* to, std::int64_t bytes) {
  cuda.state->check_runs("values of the host are uploaded");
  if (bytes > 0) cuda.state->staging.upload(host, to, static_cast<std::size_t>(bytes));
}

template <class D>
EventPtr download(const D& cuda, const void* from, void* host, std::int64_t bytes) {
  cuda.state->check_runs("the host wants values");
  if (bytes > 0)
    check_cuda(
        cudaMemcpyAsync(host, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost, cuda.state->stream));
  return std::make_shared<CudaEvent>(cuda.state);
}

template <class D>
void* allocate_segment(const D&, std::int64_t bytes) {
  void* segment = nullptr;
  const cudaError_t error = cudaMalloc(&segment, static_cast<std::size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // which would be found behind the next launch
    return nullptr;
  }
  check_cuda(error);
  return segment;
}

template <class D>
void free_segment(const D& cuda, void* segment, std::int64_t) {
  if (!cuda.state->is_given_up) cudaFree(segment);
}

template <class D>
void* allocate_host_segment(const D&, std::int64_t bytes) {
  void* segment = nullptr;
  const cudaError_t error = cudaHostAlloc(&segment, static_cast<std::size_t>(bytes), cudaHostAllocDefault);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check_cuda(error);
  return segment;
}

template <class D>
void free_host_segment(const D& cuda, void* segment, std::int64_t) {
  if (!cuda.state->is_given_up) cudaFreeHost(segment);
}

template void copy_bytes(const Cuda&, const void*, void*, std::int64_t);
template void copy_rows(const Cuda&, const void*, std::int64_t, void*, std::int64_t, std::int64_t, std::int64_t);
template void clear_bytes(const Cuda&, void*, std::int64_t);
template void upload(const Cuda&, const void*, void*, std::int64_t);
template EventPtr download(const Cuda&, const void*, void*, std::int64_t);
template void* allocate_segment(const Cuda&, std::int64_t);
template void free_segment(const Cuda&, void*, std::int64_t);
template void* allocate_host_segment(const Cuda&, std::int64_t);
template void free_host_segment(const Cuda&, void*, std::int64_t);

}  // namespace limbeck::kernels
