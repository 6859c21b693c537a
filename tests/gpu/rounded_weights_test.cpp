// The bfloat16 copies that a GPU keeps of float32 weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "core/ops/packed_weight.h"
#include "optim/adamw.h"
#include "optim/muon.h"
#include "tests/gpu/gpus.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;

std::vector<float> values_of(const Tensor& t) { return core::host_values<float>(t.to(DType::F32)); }
Tensor copy_of(const Tensor& weight) { return core::packed_weight(weight, kernels::Transpose::Yes).packed; }

Tensor waves(const core::MemoryPtr& memory, double phase) {
  std::vector<float> values;
  for (int i = 0; i < 8 * 16; ++i) values.push_back(static_cast<float>(std::sin(phase + 0.7 * i)));
  return Tensor::from<float>(memory, {8, 16}, values);
}

/// step(rate) of an optimizer of the parameter.
void expect_copy_is_written(const std::function<std::function<void(double)>(core::Parameter&)>& make_optimizer) {
  const auto memory = testing::gpu_memory(0);
  core::Parameter p;
  p.name = "weight";
  p.value = waves(memory, 0);
  p.global_shape = p.value.shape();
  p.slot = std::make_shared<core::Slot>();
  p.slot->grad = waves(memory, 1);
  p.slot->has_grad = true;
  const auto step = make_optimizer(p);
  step(0.1);  // of a weight without a copy
  const Tensor copy = copy_of(p.value);
  for (int i = 0; i < 2; ++i) {
    const std::vector<float> before = values_of(copy);
    step(0.1);
    EXPECT_EQ(copy_of(p.value).storage(), copy.storage());
    EXPECT_NE(values_of(copy), before);
    EXPECT_EQ(values_of(copy), values_of(p.value.to(DType::BF16)));
  }
  p.value.copy_from(waves(memory, 2));  // by somebody else
  step(0.1);
  EXPECT_NE(copy_of(p.value).storage(), copy.storage());
  EXPECT_EQ(values_of(copy_of(p.value)), values_of(p.value.to(DType::BF16)));
}

TEST(GpuRoundedWeights, AreWrittenByAdamW) {
  expect_copy_is_written([](core::Parameter& p) {
    const auto adamw = std::make_shared<optim::AdamW>(optim::whole_fragments({&p}), optim::AdamWSettings{});
    return [adamw](double rate) { adamw->step(rate, {}); };
  });
}

TEST(GpuRoundedWeights, AreWrittenByMuon) {
  expect_copy_is_written([](core::Parameter& p) {
    const auto muon = std::make_shared<optim::Muon>(optim::whole_fragments({&p}), optim::MuonSettings{}, nullptr);
    return [muon](double rate) { muon->step(rate, {}); };
  });
}

}  // namespace
}  // namespace limbeck
