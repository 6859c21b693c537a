#include "launch/run/calibration.h"

#include <algorithm>
#include <cmath>

namespace limbeck::launch {

void Calibration::add(double confidence, bool is_right) {
  const double place = std::ceil(confidence * static_cast<double>(num_bins)) - 1;
  // A model without finite logits has no confidence; whoever measures says so.
  const auto bin = place > 0 ? std::min(num_bins - 1, static_cast<std::size_t>(place)) : 0;
  bins_[bin].count += 1;
  bins_[bin].right += is_right ? 1 : 0;
  bins_[bin].confidence += confidence;
}

void Calibration::add(const Calibration& other) {
  for (std::size_t b = 0; b < num_bins; ++b) {
    bins_[b].count += other.bins_[b].count;
    bins_[b].right += other.bins_[b].right;
    bins_[b].confidence += other.bins_[b].confidence;
  }
}

std::array<double, Calibration::num_bins> Calibration::gaps() const {
  std::array<double, num_bins> gaps{};
  for (std::size_t b = 0; b < num_bins; ++b) gaps[b] = bins_[b].right - bins_[b].confidence;
  return gaps;
}

std::optional<double> Calibration::error() const {
  double count = 0, sum = 0;
  for (const Bin& bin : bins_) count += bin.count;
  for (const double gap : gaps()) sum += std::abs(gap);
  if (count == 0) return std::nullopt;
  return sum / count;
}

}  // namespace limbeck::launch
