#include "core/ops/smoothed_labels.h"

#include <gtest/gtest.h>

#include <cmath>

namespace limbeck::core {
namespace {

// A vocabulary of 7 in parts of 4 and 3.
TEST(SmoothedLabels, AreTheirDistributionWholeAndInParts) {
  const std::vector<std::int32_t> targets = {6, -1, 0, 4};
  const Tensor there = Tensor::from<std::int32_t>(Memory::cpu(1), {4}, targets);
  SmoothedLabels low(there, 0.3, 7, 4, 0, DType::F64), high(there, 0.3, 7, 3, 4, DType::F64);
  for (const auto& [first, count] : {std::pair{0, 2}, {2, 2}, {1, 3}}) {
    const Tensor a = low.logits(first, count), b = high.logits(first, count);
    for (std::int64_t t = 0; t < count; ++t) {
      std::vector<double> z(a.data<double>() + t * 4, a.data<double>() + t * 4 + 4);
      z.insert(z.end(), b.data<double>() + t * 3, b.data<double>() + t * 3 + 3);
      double sum = 0;
      for (const double value : z) sum += std::exp(value);
      const std::int32_t target = targets[static_cast<std::size_t>(first + t)];
      if (target < 0) continue;
      for (std::int32_t v = 0; v < 7; ++v)
        EXPECT_NEAR(std::exp(z[static_cast<std::size_t>(v)]) / sum, 0.3 / 7 + (v == target ? 0.7 : 0), 1e-12);
    }
  }
}

TEST(SmoothedLabels, RefuseASmoothingThatIsNone) {
  const Tensor targets = Tensor::zeros(Memory::cpu(1), DType::I32, {1});
  for (const double smoothing : {0.0, 1.0, -0.1})
    EXPECT_THROW(SmoothedLabels(targets, smoothing, 7, 7, 0, DType::F32), Error);
}

}  // namespace
}  // namespace limbeck::core
