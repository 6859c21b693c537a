#include "kernels/recording.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "kernels/copy.h"
#include "kernels/elementwise.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(CudaRecording, RunsWhenItIsQueuedOnWhatIsThereThen) {
  const std::vector<float> x{1, 2, 3}, zeros(3);
  OnGpu<float> there(x), sum(zeros);
  begin_recording(gpu());
  add_to(gpu(), there.data(), sum.data(), 3);
  scale(gpu(), there.data(), 2.0F, there.data(), 3);
  const RecordingPtr recording = end_recording(gpu());
  expect_same(sum.values(), zeros);
  for (int i = 0; i < 3; ++i) recording->queue();
  expect_same(sum.values(), std::vector<float>{7, 14, 21});  // of 1, 2 and 4 times x
  clear_bytes(gpu(), sum.data(), 12);
  recording->queue();
  expect_same(sum.values(), std::vector<float>{8, 16, 24});
}

TEST(CudaRecording, TakesNoValuesOfTheHostAndGivesItNone) {
  OnGpu<float> there(std::vector<float>{1, 2, 3});
  std::vector<float> host(3);
  begin_recording(gpu());
  EXPECT_THAT([&] { upload(gpu(), host.data(), there.data(), 12); },
              ThrowsMessage<std::runtime_error>("values of the host are uploaded while a GPU's work is recorded"));
  EXPECT_THAT([&] { download(gpu(), there.data(), host.data(), 12); },
              ThrowsMessage<std::runtime_error>("the host wants values while a GPU's work is recorded"));
  end_recording(gpu())->queue();  // of nothing
  upload(gpu(), host.data(), there.data(), 12);
  expect_same(there.values(), host);
}

TEST(CudaRecording, IsNotOfACpu) {
  EXPECT_THAT([] { begin_recording(cpu()); }, ThrowsMessage<std::runtime_error>(HasSubstr("a CPU has no queue")));
}

}  // namespace
}  // namespace limbeck::kernels
