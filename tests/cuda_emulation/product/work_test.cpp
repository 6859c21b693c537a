// Limbeck's own kernels and what launches them, as only the emulation can try them: each call of CUDA's fails in turn,
// work runs as late as it may, and in other orders.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/copy.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"

namespace limbeck::kernels {
namespace {

using emulation::check;
using emulation::OnDevice;

constexpr std::int64_t rows = 37, width = 260;
constexpr std::int64_t bytes = rows * width * 4;

std::vector<float> numbers() {
  std::vector<float> x(rows * width);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 7919 % 1013) / 512 - 1;
  return x;
}

/// Opens a GPU, and has it do something of each kind. Returns the result.
std::vector<float> work() {
  const Cuda cuda = make_cuda(0);
  const auto x = numbers();
  const OnDevice<float> from(rows * width), to(rows * width), weight(std::vector<float>(width, 2)), inverse(rows),
      gradient(width), square(rows * rows);
  std::vector<float> result(rows * rows);
  upload(cuda, x.data(), from.data(), bytes);
  rms_norm(cuda, from.data(), weight.data(), to.data(), inverse.data(), rows, width, 1e-5);
  clear_bytes(cuda, gradient.data(), width * 4);
  rms_norm_weight_gradient(cuda, from.data(), inverse.data(), to.data(), /*add=*/true, gradient.data(), rows, width);
  copy_bytes(cuda, gradient.data(), to.data(), width * 4);
  copy_rows(cuda, to.data(), width * 4, from.data() + 8, width * 4, 64, rows);
  matmul(cuda, Transpose::No, Transpose::Yes, rows, rows, width, from.data(), to.data(), 0.0F, square.data());
  download(cuda, square.data(), result.data(), rows * rows * 4)->wait();
  return result;
}

TEST(EmulatedProduct, EachFailedCallIsReported) {
  EXPECT_THAT(emulation::unreported_failures([] { work(); }), ::testing::ElementsAre("cudaStreamSynchronize"))
      << "expected that of ~CudaState alone";
}

TEST(EmulatedProduct, EachOrderGivesTheSameBits) {
  const auto expected = work();
  for (const std::uint64_t s : {2, 3, 4, 5, 6}) {
    emulation::set_seed(s);
    EXPECT_EQ(work(), expected) << s;
  }
  emulation::set_seed(1);
}

// More than fits into the pinned pieces: each is used again only when it was read.
TEST(EmulatedProduct, WhatIsUploadedIsReadBeforeItsPlaceIsUsedAgain) {
  emulation::set_seed(3);
  const Cuda cuda = make_cuda(0);
  std::vector<std::uint32_t> x(5 * Staging::piece_bytes / 4);
  std::iota(x.begin(), x.end(), 0U);
  const OnDevice<std::uint32_t> there(x.size());
  upload(cuda, x.data(), there.data(), static_cast<std::int64_t>(x.size() * 4));
  EXPECT_TRUE(there.read() == x);
  emulation::set_seed(1);
}

}  // namespace
}  // namespace limbeck::kernels
