#include "core/ops/sparse_targets.h"

#include <utility>

namespace limbeck::core {

SparseTargets SparseTargets::rows(std::int64_t first, std::int64_t count) const {
  SparseTargets some = *this;
  for (Tensor* column : some.columns())
    if (column->defined()) *column = column->rows(first, count);
  return some;
}

std::array<Tensor*, 7> SparseTargets::columns() {
  return {&ids, &log_p, &rest, &log_p_tempered, &rest_tempered, &likeliest, &target_loss};
}

void SparseTargets::check_valid(DType dtype) const {
  const std::int64_t n = ids.shape()[0], width = ids.shape()[1];
  const auto expect = [&](const Tensor& column, const char* name, DType type, const Shape& shape) {
    check(column.defined() && column.dtype() == type && column.shape() == shape,
          "sparse targets: {} is {} {}, expected {} {}", name, column.dtype(), column.shape(), type, shape);
  };
  expect(ids, "ids", DType::I32, {n, width});
  expect(log_p, "log_p", dtype, {n, width});
  expect(rest, "rest", dtype, {n});
  if (temperature != 1) {
    expect(log_p_tempered, "log_p_tempered", dtype, {n, width});
    expect(rest_tempered, "rest_tempered", dtype, {n});
  }
  expect(likeliest, "likeliest", DType::I32, {n});
  expect(target_loss, "target_loss", dtype, {n});
}

SparseTeacher::SparseTeacher(SparseTargets targets) : targets_(std::move(targets)) {}

Tensor SparseTeacher::logits(std::int64_t, std::int64_t) { fail("a teacher of which a part is kept has no logits"); }

}  // namespace limbeck::core
