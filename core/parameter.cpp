#include "core/parameter.h"

namespace limbeck::core {

std::vector<std::int64_t> Parameter::offset() const {
  std::vector<std::int64_t> result(static_cast<std::size_t>(global_shape.rank()), 0);
  for (const AxisPlacement& p : placement)
    if (p.role == AxisRole::Sharded) result[static_cast<std::size_t>(p.dimension)] += p.offset;
  return result;
}

}  // namespace limbeck::core
