#include "kernels/copy_queue.h"

#include <exception>
#include <utility>

#include "kernels/cuda/cuda_state.h"

namespace limbeck::kernels {
namespace {

class CudaCopies final : public CopyQueue {
 public:
  explicit CudaCopies(std::shared_ptr<const CudaState> state) : state_(std::move(state)) {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    check_cuda(cudaEventCreateWithFlags(&place_, cudaEventDisableTiming));
  }
  ~CudaCopies() override {
    if (state_->is_given_up) return;
    try {
      if (std::uncaught_exceptions() == exceptions_at_start_) {
        check_cuda(cudaEventRecord(place_, stream_));
        state_->wait_for(place_);
      } else {
        hold_device();  // what they write is not given back before they are done
      }
    } catch (const std::exception&) {
      // The device has failed, which its next use tells.
    }
    cudaEventDestroy(place_);
    cudaStreamDestroy(stream_);
  }
  CudaCopies(const CudaCopies&) = delete;
  CudaCopies& operator=(const CudaCopies&) = delete;

  void follow_device() override { order(state_->stream, stream_); }
  void hold_device() override { order(stream_, state_->stream); }
  void upload(const void* host, void* to, std::int64_t bytes) override {
    state_->check_runs("values of the host are uploaded");
    if (bytes > 0)
      check_cuda(cudaMemcpyAsync(to, host, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, stream_));
  }

 private:
  void order(cudaStream_t first, cudaStream_t then) {
    state_->check_runs("copies beside it are waited for");
    check_cuda(cudaEventRecord(place_, first));  // a wait is for the record before it, however often it is used again
    check_cuda(cudaStreamWaitEvent(then, place_, 0));
  }

  std::shared_ptr<const CudaState> state_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t place_ = nullptr;
  int exceptions_at_start_ = std::uncaught_exceptions();
};

}  // namespace

template <class D>
CopyQueuePtr make_copy_queue(const D& cuda) {
  return std::make_unique<CudaCopies>(cuda.state);
}

template CopyQueuePtr make_copy_queue(const Cuda&);

}  // namespace limbeck::kernels
