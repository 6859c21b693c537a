#include "data/checkpoints/tensor_boxes.h"

#include "core/error.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::fail;

namespace {

constexpr std::array<DType, 4> written_dtypes = {DType::F32, DType::F64, DType::BF16, DType::I64};

bool overlap(const TensorBox& a, const TensorBox& b) {
  for (int i = 0; i < a.extent.rank(); ++i)
    if (a.offset[i] + a.extent[i] <= b.offset[i] || b.offset[i] + b.extent[i] <= a.offset[i]) return false;
  return true;
}

}  // namespace

DType checkpoint_dtype(const std::string& name) {
  for (const DType dtype : written_dtypes)
    if (core::name_of(dtype) == name) return dtype;
  fail("dtype is {}, expected float32, float64, bfloat16 or int64", name);
}

void check_box(const TensorBox& box, const std::string& where) {
  check(std::find(written_dtypes.begin(), written_dtypes.end(), box.dtype) != written_dtypes.end(),
        "{}: {} has dtype {}, expected float32, float64, bfloat16 or int64", where, box.name, box.dtype);
  const int rank = box.global_shape.rank();
  bool inside = box.extent.rank() == rank && static_cast<int>(box.offset.size()) == rank;
  for (int i = 0; inside && i < rank; ++i)
    inside = box.offset[i] >= 0 && box.extent[i] <= box.global_shape[i] &&
             box.offset[i] <= box.global_shape[i] - box.extent[i];
  check(inside, "{}: {}: the box {} at [{}] does not lie in the global shape {}", where, box.name, box.extent,
        fmt::join(box.offset, ","), box.global_shape);
}

void check_tiling(const std::string& where, std::span<const PlacedBox> parts) {
  const TensorBox& first = *parts.front().box;
  std::int64_t elements = 0;  // boxes inside the shape that do not overlap and have as many elements as it tile it
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const TensorBox& box = *parts[i].box;
    check(box.global_shape == first.global_shape && box.dtype == first.dtype, "{}: {} is {} {} in {}, but {} {} in {}",
          where, box.name, box.dtype, box.global_shape, *parts[i].file, first.dtype, first.global_shape,
          *parts.front().file);
    if (box.extent.numel() == 0) continue;
    elements += box.extent.numel();
    for (std::size_t j = 0; j < i; ++j)
      check(parts[j].box->extent.numel() == 0 || !overlap(*parts[j].box, box),
            "{}: {} {}: the box {} at [{}] of {} overlaps {} at [{}] of {}", where, box.name, box.global_shape,
            box.extent, fmt::join(box.offset, ","), *parts[i].file, parts[j].box->extent,
            fmt::join(parts[j].box->offset, ","), *parts[j].file);
  }
  check(elements == first.global_shape.numel(), "{}: {} {} has a gap: {} of {} elements were written", where,
        first.name, first.global_shape, elements, first.global_shape.numel());
}

}  // namespace limbeck::data
