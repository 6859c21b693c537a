// Boxes of a tensor: that they lie in it and tile it, and what two of them share.
//
//     check_tiling(folder, {{&first, &first_file}, {&second, &second_file}});
//     for_each_shared_run(stored, wanted, [&](std::int64_t from, std::int64_t to, std::int64_t count) { ... });
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"

namespace limbeck::data {

/// A box of a tensor that a rank wrote.
struct TensorBox {
  std::string name;
  core::DType dtype = core::DType::F32;
  core::Shape global_shape;
  std::vector<std::int64_t> offset;
  core::Shape extent;
};

/// A box and the file it lies in.
struct PlacedBox {
  const TensorBox* box;
  const std::string* file;
};

/// The dtype of a checkpoint's tensors by its name; throws for any but float32, float64, bfloat16 and int64.
core::DType checkpoint_dtype(const std::string& name);

/// Throws, with `where` in front, unless the box lies in its global shape and has a dtype that checkpoints hold.
void check_box(const TensorBox& box, const std::string& where);

/// Throws, with `where` in front, unless the boxes of one tensor agree on it and tile its global shape. Empty boxes
/// count for nothing.
void check_tiling(const std::string& where, std::span<const PlacedBox> parts);

/// Calls run(first in a, first in b, count) for the elements that two boxes of one tensor share, counted within each
/// box, in runs that are contiguous in both.
template <class F>
void for_each_shared_run(const TensorBox& a, const TensorBox& b, F&& run) {
  const int rank = a.extent.rank();
  std::array<std::int64_t, core::Shape::max_rank> first{};
  std::array<std::int64_t, core::Shape::max_rank> count{};
  for (int d = 0; d < rank; ++d) {
    first[d] = std::max(a.offset[d], b.offset[d]);
    count[d] = std::min(a.offset[d] + a.extent[d], b.offset[d] + b.extent[d]) - first[d];
    if (count[d] <= 0) return;
  }
  // The dimensions from `inner` on make one run: all of them but the first are whole in both boxes.
  int inner = rank - 1;
  while (inner > 0 && count[inner] == a.extent[inner] && count[inner] == b.extent[inner]) --inner;
  std::int64_t length = 1;
  for (int d = std::max(inner, 0); d < rank; ++d) length *= count[d];
  std::array<std::int64_t, core::Shape::max_rank> at = first;
  const auto place = [&](const TensorBox& box) {
    std::int64_t index = 0;
    for (int d = 0; d < rank; ++d) index = index * box.extent[d] + at[d] - box.offset[d];
    return index;
  };
  while (true) {
    run(place(a), place(b), length);
    int d = inner - 1;
    while (d >= 0 && ++at[d] == first[d] + count[d]) {
      at[d] = first[d];
      --d;
    }
    if (d < 0) return;
  }
}

}  // namespace limbeck::data
