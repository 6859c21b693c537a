// CUDA's graphs, captured from the rank's stream.
#include "kernels/recording.h"

#include <utility>

#include "kernels/cuda/cuda_state.h"

namespace limbeck::kernels {
namespace {

class CudaRecording final : public Recording {
 public:
  CudaRecording(std::shared_ptr<CudaState> state, cudaGraph_t graph) : state_(std::move(state)) {
    check_cuda(cudaGraphInstantiate(&executable_, graph, 0));
  }
  /// Work under way goes on without it.
  ~CudaRecording() override {
    if (!state_->is_given_up) cudaGraphExecDestroy(executable_);
  }
  CudaRecording(const CudaRecording&) = delete;
  CudaRecording& operator=(const CudaRecording&) = delete;
  void queue() override { check_cuda(cudaGraphLaunch(executable_, state_->stream)); }

 private:
  std::shared_ptr<CudaState> state_;
  cudaGraphExec_t executable_ = nullptr;
};

struct Graph {
  cudaGraph_t graph = nullptr;
  ~Graph() {
    if (graph != nullptr) cudaGraphDestroy(graph);
  }
};

}  // namespace

// Relaxed: memory may be asked of the system meanwhile, by this thread and by others.
template <class D>
void begin_recording(const D& cuda) {
  check_cuda(cudaStreamBeginCapture(cuda.state->stream, cudaStreamCaptureModeRelaxed));
  cuda.state->is_recording = true;
}

template <class D>
RecordingPtr end_recording(const D& cuda) {
  cuda.state->is_recording = false;
  Graph captured;
  check_cuda(cudaStreamEndCapture(cuda.state->stream, &captured.graph));
  return std::make_unique<CudaRecording>(cuda.state, captured.graph);
}

template void begin_recording(const Cuda&);
template RecordingPtr end_recording(const Cuda&);

}  // namespace limbeck::kernels
