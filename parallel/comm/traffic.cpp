#include "parallel/comm/traffic.h"

#include <algorithm>

namespace limbeck::parallel {

CommAxis axis_of(std::string_view group) {
  const std::string_view word = group.substr(0, group.find(' '));
  const std::string_view name = word == "data" ? "dp" : word == "experts" ? "ep" : word;
  const auto found = std::ranges::find(comm_axis_names, name);
  return found == comm_axis_names.end() ? CommAxis::World : static_cast<CommAxis>(found - comm_axis_names.begin());
}

Traffic& Traffic::operator+=(const Traffic& other) {
  std::ranges::transform(numbers_, other.numbers_, numbers_.begin(), std::plus<>());
  return *this;
}

bool Traffic::has(CommAxis axis) const {
  return at(axis, WaitedNs) > 0 || at(axis, BytesInside) > 0 || at(axis, BytesAcross) > 0;
}

Traffic CommTally::take() {
  if (before_take_) before_take_(*this);
  Traffic taken;
  for (std::size_t i = 0; i < numbers_.size(); ++i)
    taken.numbers_[i] = numbers_[i].exchange(0, std::memory_order_relaxed);
  return taken;
}

}  // namespace limbeck::parallel
