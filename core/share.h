// How a value that several ranks would each hold whole is dealt among them: for each a range of its elements, row by
// row, which is a box of it, so that a checkpoint can hold it.
//
//     const Slice mine = share_of(parameter.value.shape(), group.rank(), group.size());
#pragma once

#include "core/shape.h"
#include "core/slice.h"

namespace limbeck::core {

/// Elements [first, first + count) of a value of this shape, flattened, are share `index` of `parts`; in order, some
/// may be empty, the last is the largest. A vector is dealt by element, a matrix by row, a stack [E,rows,cols] by
/// matrix, or, where there are more parts than matrices, a matrix to several parts by row.
inline Slice share_of(const Shape& shape, std::int64_t index, std::int64_t parts) {
  if (shape.numel() == 0) return {};
  const std::int64_t stack = shape.rank() == 3 ? shape[0] : 1;
  if (shape.rank() == 3 && stack >= parts) {
    const Slice own = slice_of(stack, index, parts);
    return {own.first * shape.row_size(), own.count * shape.row_size()};
  }
  std::int64_t matrix = 0;
  Slice ranks{0, parts};
  for (; matrix < stack; ++matrix) {
    const Slice mirrored = slice_of(parts, stack - 1 - matrix, stack);  // the last has the fewest
    ranks = {parts - mirrored.first - mirrored.count, mirrored.count};
    if (index < ranks.first + ranks.count) break;
  }
  const std::int64_t rows = shape.rank() == 3 ? shape[1] : shape.rank() > 0 ? shape[0] : 1;
  const std::int64_t row = shape.numel() / (stack * rows);
  const Slice own = slice_of(rows, index - ranks.first, ranks.count);
  return {(matrix * rows + own.first) * row, own.count * row};
}

}  // namespace limbeck::core
