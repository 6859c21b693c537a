#include "core/ops/smoothed_labels.h"

#include <cmath>

#include "kernels/one_hot.h"

namespace limbeck::core {

SmoothedLabels::SmoothedLabels(Tensor targets, double smoothing, std::int64_t vocabulary, std::int64_t columns,
                               std::int64_t offset, DType dtype)
    : targets_(std::move(targets)), columns_(columns), offset_(offset), dtype_(dtype) {
  check(smoothing > 0 && smoothing < 1, "smoothed labels: the smoothing is {}, expected more than 0 and less than 1",
        smoothing);
  const double other = smoothing / static_cast<double>(vocabulary);
  log_odds_ = std::log((1 - smoothing + other) / other);
}

Tensor SmoothedLabels::logits(std::int64_t first, std::int64_t count) {
  if (!buffer_.defined() || buffer_.shape()[0] < count)
    buffer_ = Tensor::empty(targets_.memory(), dtype_, {count, columns_});
  Tensor chunk = buffer_.rows(0, count);
  const Tensor targets = targets_.rows(first, count);
  dispatch_float("smoothed labels", dtype_, [&]<class T>() {
    on_device(chunk, [&](const auto& device) {
      kernels::one_hot(device, targets.data<std::int32_t>(), static_cast<T>(log_odds_), chunk.mutable_data<T>(), count,
                       columns_, offset_);
    });
  });
  return chunk;
}

}  // namespace limbeck::core
