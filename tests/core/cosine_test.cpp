#include "core/ops/cosine.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::tensor;

TEST(CosineDistance, Values) {
  const auto memory = Memory::cpu(2);
  const Tensor x = tensor<float>(memory, {4, 2}, {1, 0, 1, 0, 1, 0, 0, 0});
  const Tensor y = tensor<float>(memory, {4, 2}, {5, 0, 0, 3, -1, 1, 1, 1});
  EXPECT_NEAR(cosine_distance(x, y), 0 + 1 + (1 + std::sqrt(0.5)) + 1, 1e-15);
  EXPECT_EQ(cosine_distance(x.rows(0, 0), y.rows(0, 0)), 0);
  EXPECT_THAT([&] { cosine_distance(x, y.rows(0, 3)); },
              ::testing::ThrowsMessage<Error>("cosine_distance: y has shape [3,2], expected [4,2] as x"));
}

}  // namespace
}  // namespace limbeck::core
