// Small tensors written down in a test.
//
//     const Tensor x = tensor<double>(memory, {2, 2}, {1, 2, 3, 4});
//     EXPECT_THAT(host_values<double>(y), ElementsAre(...));
#pragma once

#include <span>
#include <vector>

#include "core/tensor.h"

namespace limbeck::testing {

template <class T>
core::Tensor tensor(const core::MemoryPtr& memory, const core::Shape& shape, const std::vector<T>& values) {
  return core::Tensor::from<T>(memory, shape, std::span<const T>(values));
}

/// Every byte the same.
inline bool bit_identical(const core::Tensor& a, const core::Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && std::equal(a.raw(), a.raw() + a.bytes(), b.raw());
}

}  // namespace limbeck::testing
