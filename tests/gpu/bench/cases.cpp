#include "tests/gpu/bench/cases.h"

#include "kernels/normal.h"

namespace limbeck::bench {

core::Tensor Buffers::numbers_of(core::DType dtype, const core::Shape& shape, double deviation) const {
  static std::uint64_t stream = 0;
  core::Tensor wide = core::Tensor::empty(memory_, core::DType::F32, shape);
  const core::Tensor row = core::Tensor::zeros(memory_, core::DType::I64, {1});
  kernels::normal_rows(cuda(), kernels::PhiloxStream{{1, 2}, ++stream}, deviation, row.data<std::int64_t>(),
                       wide.mutable_data<float>(), 1, wide.numel());
  return dtype == core::DType::F32 ? wide : wide.to(dtype);
}

std::vector<Case> all_cases(Sizes sizes) {
  std::vector<Case> all;
  for (const auto cases : {memory_cases, routing_cases, product_cases, grouped_cases, attention_cases, head_cases})
    for (Case& one : cases(sizes)) all.push_back(std::move(one));
  return all;
}

}  // namespace limbeck::bench
