// Arrays on the emulated GPU, for tests.
//
//     const OnDevice<float> x({1, 2, 3});
//     samples::affine(on_stream(stream), x.data(), ...);
//     EXPECT_THAT(x.read(), ElementsAre(1, 2, 3));        // waits for the GPU
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <vector>

#include "kernels/cuda/cuda_state.h"

namespace limbeck::emulation {

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

inline kernels::Cuda on_stream(cudaStream_t stream) {
  kernels::Cuda cuda{0, std::make_shared<kernels::CudaState>()};
  check(cudaGetDevice(&cuda.ordinal));
  cuda.state->stream = stream;
  return cuda;
}

template <class T>
class OnDevice {
 public:
  explicit OnDevice(std::size_t n) : n_(n) { check(cudaMalloc(&data_, n * sizeof(T))); }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    check(cudaMemcpy(data_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* data() const { return static_cast<T*>(data_); }
  std::vector<T> read() const {
    std::vector<T> values(n_);
    check(cudaDeviceSynchronize());
    check(cudaMemcpy(values.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  std::size_t n_;
  void* data_ = nullptr;
};

}  // namespace limbeck::emulation
