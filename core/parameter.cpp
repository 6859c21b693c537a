#include "core/parameter.h"

#include <fnmatch.h>

namespace limbeck::core {

bool is_of_pattern(const std::string& name, const std::string& pattern) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

std::vector<std::int64_t> Parameter::offset() const {
  std::vector<std::int64_t> result(static_cast<std::size_t>(global_shape.rank()), 0);
  for (const AxisPlacement& p : placement)
    if (p.role == AxisRole::Sharded) result[static_cast<std::size_t>(p.dimension)] += p.offset;
  return result;
}

std::vector<std::int64_t> global_rows(const StateEntry& part) {
  const Shape& local = part.tensor.shape();
  const std::vector<std::int64_t>& offset = part.offset;
  const int last = local.rank() - 1;
  std::vector<std::int64_t> rows(static_cast<std::size_t>(local.numel() > 0 ? local.numel() / local[last] : 0));
  for (std::size_t r = 0; r < rows.size(); ++r) {
    auto rest = static_cast<std::int64_t>(r);
    rows[r] = offset[static_cast<std::size_t>(last)];
    std::int64_t stride = part.global_shape[last];
    for (int d = last - 1; d >= 0; --d) {
      rows[r] += (rest % local[d] + offset[static_cast<std::size_t>(d)]) * stride;
      rest /= local[d];
      stride *= part.global_shape[d];
    }
  }
  return rows;
}

}  // namespace limbeck::core
