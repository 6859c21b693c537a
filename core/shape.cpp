#include "core/shape.h"

#include <fmt/ranges.h>

namespace limbeck::core {

std::int64_t Shape::product(int first) const {
  std::int64_t n = 1;
  for (int i = first; i < rank_; ++i)
    check(!__builtin_mul_overflow(n, extents_[i], &n), "shape: {} has too many elements", *this);
  return n;
}

}  // namespace limbeck::core

fmt::format_context::iterator fmt::formatter<limbeck::core::Shape>::format(const limbeck::core::Shape& shape,
                                                                           fmt::format_context& context) const {
  return fmt::format_to(context.out(), "[{}]", fmt::join(shape.extents(), ","));
}
