#include "data/models/model_tensor.h"

#include <algorithm>

namespace limbeck::data {

using core::DType;

void QuantisedTensor::read(std::int64_t first, std::int64_t stride, std::int64_t count, DType to,
                           std::byte* out) const {
  if (count == 0) return;
  core::check(first >= 0 && stride > 0 && first + (count - 1) * stride < shape().numel(),
              "quantised tensor: elements {} to {} of a tensor {}", first, first + (count - 1) * stride, shape());
  if (to == DType::F32) return values(first, stride, count, reinterpret_cast<float*>(out));
  constexpr std::int64_t at_once = 4096;
  float part[at_once];
  for (std::int64_t done = 0; done < count; done += at_once) {
    const std::int64_t n = std::min(at_once, count - done);
    values(first + done * stride, stride, n, part);
    if (to == DType::F64)
      std::copy_n(part, n, reinterpret_cast<double*>(out) + done);
    else if (to == DType::BF16)
      std::transform(part, part + n, reinterpret_cast<core::bf16*>(out) + done, [](float x) { return core::bf16(x); });
    else
      core::fail("quantised tensor: cannot be read as {}, expected float32, float64 or bfloat16", to);
  }
}

}  // namespace limbeck::data
