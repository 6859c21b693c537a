#include "core/ops/split_rows.h"

#include <algorithm>
#include <numeric>

#include "core/slice.h"

namespace limbeck::core {
namespace {

std::int64_t num_rows(const Tensor& x) { return x.shape()[0]; }

Tensor joined(const std::vector<Tensor>& parts) {
  Shape shape = parts.front().shape();
  shape[0] = std::transform_reduce(parts.begin(), parts.end(), std::int64_t{0}, std::plus(), num_rows);
  Tensor whole = Tensor::empty(parts.front().memory(), parts.front().dtype(), shape);
  std::int64_t first = 0;
  for (const Tensor& part : parts) {
    check(part.dtype() == whole.dtype() && part.shape().rank() > 0 && part.shape().row_size() == shape.row_size(),
          "join_rows: a part is {} {}, the first {} {}", part.dtype(), part.shape(), whole.dtype(),
          parts.front().shape());
    whole.rows(first, num_rows(part)).copy_from(part);
    first += num_rows(part);
  }
  return whole;
}

}  // namespace

std::vector<Var> split_rows(Tape& tape, const Var& x, std::int64_t parts) {
  check(parts > 0 && x.shape().rank() > 0, "split_rows: {} parts of {}, expected one or more of rows", parts,
        x.shape());
  if (parts == 1) return {x};
  std::vector<Var> split, ends;  // the latter without values
  for (std::int64_t i = 0; i < parts; ++i) {
    const Slice rows = slice_of(x.shape()[0], i, parts);
    const Var& part = split.emplace_back(tape.output(x.value.rows(rows.first, rows.count), {&x}));
    ends.push_back({outline(part.value), part.slot});
  }
  if (split.front().slot)
    tape.push({"split_rows", {x.slot}, [ends, to = x.slot] {
                 std::vector<Tensor> gradients;
                 for (const Var& end : ends) gradients.push_back(gradient(end.slot, end.value));
                 accumulate(to, joined(gradients));
               }});
  return split;
}

Var join_rows(Tape& tape, const std::vector<Var>& parts) {
  check(!parts.empty(), "join_rows: no parts, expected one or more");
  if (parts.size() == 1) return parts.front();
  std::vector<Tensor> values;
  std::vector<SlotPtr> slots;
  std::vector<std::int64_t> rows;
  for (const Var& part : parts) {
    values.push_back(part.value);
    slots.push_back(part.slot);
    rows.push_back(num_rows(part.value));
  }
  const auto some = std::ranges::find_if(parts, [](const Var& part) { return part.slot != nullptr; });
  Var whole = tape.output(joined(values), {some == parts.end() ? &parts.front() : &*some});
  if (whole.slot)
    tape.push({"join_rows", slots, [slots, rows, slot = whole.slot, like = outline(whole.value)] {
                 const Tensor g = gradient(slot, like);
                 std::int64_t first = 0;
                 for (std::size_t i = 0; i < slots.size(); ++i) {
                   accumulate(slots[i], g.rows(first, rows[i]));
                   first += rows[i];
                 }
               }});
  return whole;
}

}  // namespace limbeck::core
