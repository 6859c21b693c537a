// Kernels of a GPU beside their twins on the CPU: values there and back, and how near results have to be.
//
//     const auto x = random_values<T>(n, /*seed=*/1);
//     OnGpu<T> on_gpu(x), result(n);
//     scale(gpu(), on_gpu.data(), 2, result.data(), n);
//     scale(cpu(), x.data(), 2, expected.data(), n);
//     expect_close(result.values(), expected);
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/bf16.h"
#include "kernels/cpu.h"
#include "kernels/cuda/cuda_state.h"
#include "tests/support/noted_results.h"

namespace limbeck::testing {

using kernels::Acc, kernels::as, kernels::bf16;

/// The first GPU, opened once.
inline const kernels::Cuda& gpu() {
  static const auto* cuda = new kernels::Cuda(kernels::make_cuda(0));
  return *cuda;
}
inline const kernels::Cpu& cpu() {
  static const auto* cpu = new kernels::Cpu(kernels::make_cpu(1));
  return *cpu;
}

/// Values in memory of the GPU, between bytes that nobody may write.
template <class T>
class OnGpu {
 public:
  /// From `misplaced` values behind a multiple of 256 bytes on.
  explicit OnGpu(const std::vector<T>& values, std::size_t misplaced = 0)
      : bytes_(values.size() * sizeof(T)),
        front_(fence + misplaced * sizeof(T)),
        all_(front_ + bytes_ + fence, filler) {
    if (bytes_ > 0) std::memcpy(all_.data() + front_, values.data(), bytes_);
    kernels::check_cuda(cudaMalloc(&memory_, all_.size()));
    kernels::check_cuda(cudaMemcpy(memory_, all_.data(), all_.size(), cudaMemcpyHostToDevice));
  }
  /// Of n values that a kernel has to write: until then each byte is the filler.
  explicit OnGpu(std::int64_t n, std::size_t misplaced = 0) : OnGpu(unwritten(n), misplaced) {}
  ~OnGpu() { cudaFree(memory_); }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;

  T* data() { return reinterpret_cast<T*>(static_cast<std::byte*>(memory_) + front_); }

  /// What is there when all kernels have run.
  std::vector<T> values() {
    kernels::check_cuda(cudaStreamSynchronize(gpu().state->stream));
    std::vector<std::byte> now(all_.size());
    kernels::check_cuda(cudaMemcpy(now.data(), memory_, now.size(), cudaMemcpyDeviceToHost));
    for (std::size_t i = 0; i < now.size(); ++i)
      if (i < front_ || i >= front_ + bytes_) {
        EXPECT_EQ(now[i], filler) << "a byte was written at " << static_cast<std::int64_t>(i - front_) << " of "
                                  << bytes_;
        if (now[i] != filler) break;
      }
    std::vector<T> values(bytes_ / sizeof(T));
    if (bytes_ > 0) std::memcpy(values.data(), now.data() + front_, bytes_);
    note_result(values.data(), bytes_);
    return values;
  }

 private:
  static constexpr std::size_t fence = 256;
  static constexpr std::byte filler{0x5a};
  static std::vector<T> unwritten(std::int64_t n) {
    std::vector<T> values(static_cast<std::size_t>(n));
    if (n > 0) std::memset(static_cast<void*>(values.data()), 0x5a, values.size() * sizeof(T));
    return values;
  }

  std::size_t bytes_, front_;
  std::vector<std::byte> all_;
  void* memory_ = nullptr;
};

/// Normal numbers, rounded to T.
template <class T>
std::vector<T> random_values(std::int64_t n, unsigned seed, double deviation = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal(0, deviation);
  std::vector<T> x(static_cast<std::size_t>(n));
  for (T& value : x) value = as<T>(normal(engine));
  return x;
}

/// Whole numbers from `first` on, below `limit`.
template <class I = std::int32_t>
std::vector<I> random_indices(std::int64_t n, unsigned seed, std::int64_t first, std::int64_t limit) {
  std::mt19937 engine(seed);
  std::uniform_int_distribution<std::int64_t> uniform(first, limit - 1);
  std::vector<I> x(static_cast<std::size_t>(n));
  for (I& value : x) value = static_cast<I>(uniform(engine));
  return x;
}

/// How far two roundings of nearly the same number to T lie from each other, by the number.
template <class T>
constexpr double one_rounding = std::is_same_v<T, bf16>    ? 0x1p-7
                                : std::is_same_v<T, float> ? 0x1p-22
                                                           : 0x1p-51;

/// Each value is the expected one but for its rounding and for an error of arithmetic in Acc<T> among numbers of
/// `scale`.
template <class T>
void expect_close(const std::vector<T>& values, const std::vector<T>& expected, double scale = 1) {
  ASSERT_EQ(values.size(), expected.size());
  constexpr double arithmetic = std::is_same_v<T, double> ? 1e-13 : 2e-6;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double value = as<double>(values[i]), right = as<double>(expected[i]);
    if (value == right || (std::isnan(value) && std::isnan(right))) continue;
    ASSERT_LE(std::abs(value - right), one_rounding<T> * std::abs(right) + arithmetic * scale)
        << "element " << i << " of " << values.size() << " is " << value << ", expected " << right;
  }
}

/// The same bits.
template <class T>
void expect_same(const std::vector<T>& values, const std::vector<T>& expected) {
  ASSERT_EQ(values.size(), expected.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    ASSERT_EQ(std::memcmp(&values[i], &expected[i], sizeof(T)), 0)
        << "element " << i << " is " << +as<double>(values[i]) << ", expected " << +as<double>(expected[i]);
}

}  // namespace limbeck::testing
