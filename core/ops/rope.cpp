#include "core/ops/rope.h"

#include <cmath>

#include "core/device/index_check.h"
#include "kernels/rope.h"

namespace limbeck::core {
namespace {

struct Parts {
  TurningPart queries, keys;  // with their widths
};

/// Turned in place where the caller gave the only reference; undefined ones stay so.
std::pair<Tensor, Tensor> rotated(Tensor queries, Tensor keys, const Tensor& position, const RopeTable& table,
                                  int direction, const Parts& parts) {
  for (Tensor* x : {&queries, &keys})
    if (x->defined() && !x->is_sole_owner()) *x = x->clone();
  const Tensor& any = queries.defined() ? queries : keys;
  dispatch_activation("rope", any.dtype(), [&]<class T>() {
    using Wide = kernels::Acc<T>;
    const auto heads = [&](Tensor& x, const TurningPart& part) {
      return x.defined() ? kernels::RopeHeads<T>{x.mutable_data<T>(), x.shape()[1] / part.width, part.width, part.first}
                         : kernels::RopeHeads<T>{};
    };
    on_device(any, [&](const auto& device) {
      kernels::rope(device, heads(queries, parts.queries), heads(keys, parts.keys), position.data<std::int32_t>(),
                    table.cos.data<Wide>(), table.sin.data<Wide>(), direction, position.numel(), table.turning());
    });
  });
  return {std::move(queries), std::move(keys)};
}

/// -> the part with its width.
TurningPart check_inputs(std::string_view name, const Var& x, const Tensor& position, const RopeTable& table,
                         const TurningPart& given) {
  const std::int64_t turning = table.turning();
  const TurningPart part{given.width > 0 ? given.width : turning, given.first};
  check(part.first >= 0 && part.first + turning <= part.width, "rope: channels {} to {} of heads of {} turn ({})",
        part.first, part.first + turning, part.width, name);
  check(x.shape().rank() == 2 && x.shape()[1] % part.width == 0, "rope: {} have shape {}, expected [T,H*{}]", name,
        x.shape(), part.width);
  check(position.shape() == Shape{x.shape()[0]}, "rope: position has shape {}, expected [{}] ({} are {})",
        position.shape(), x.shape()[0], name, x.shape());
  check(sum_dtype(x.value.dtype()) == table.cos.dtype(), "rope: {} are {}, expected {} as the table{}", name,
        x.value.dtype(), table.cos.dtype(), table.cos.dtype() == DType::F32 ? ", or bfloat16" : "");
  return part;
}

/// The gradient that arrived, which leaves the slot; undefined without one.
Tensor taken_gradient(const SlotPtr& slot, const Tensor& like) {
  if (!slot) return {};
  gradient(slot, like);
  return std::move(slot->grad);
}

}  // namespace

std::vector<double> rope_frequencies(std::int64_t turning, double base) {
  check(turning > 0 && turning % 2 == 0, "rope: {} channels turn, expected an even number", turning);
  check(base > 0, "rope: base is {}, expected a positive number", base);
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < turning / 2; ++i)
    frequencies.push_back(std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(turning)));
  return frequencies;
}

RopeTable make_rope_table(const MemoryPtr& memory, DType dtype, std::int64_t num_positions,
                          std::span<const double> frequencies, double factor) {
  const auto half = static_cast<std::int64_t>(frequencies.size());
  check(half > 0, "rope: there are no frequencies, expected one or more");
  const Shape shape{num_positions, half};
  RopeTable table{Tensor::empty(memory, dtype, shape), Tensor::empty(memory, dtype, shape)};
  const Tensor there = Tensor::from<double>(memory, {half}, frequencies);
  dispatch_float("rope", dtype, [&]<class T>() {
    on_device(table.cos, [&](const auto& device) {
      kernels::rope_table(device, table.cos.mutable_data<T>(), table.sin.mutable_data<T>(), num_positions, half,
                          there.data<double>(), factor);
    });
  });
  return table;
}

RopeTable make_rope_table(const MemoryPtr& memory, DType dtype, std::int64_t num_positions, std::int64_t turning,
                          double base) {
  return make_rope_table(memory, dtype, num_positions, rope_frequencies(turning, base));
}

RopeTable joined(const RopeTable& first, const RopeTable& second) {
  check(first.cos.shape() == second.cos.shape(), "rope: tables {} and {}, expected alike", first.cos.shape(),
        second.cos.shape());
  const auto one = [](const Tensor& a, const Tensor& b) {
    const std::int64_t rows = a.shape()[0];
    Tensor both = Tensor::empty(a.memory(), a.dtype(), {2 * rows, a.shape()[1]});
    both.rows(0, rows).copy_from(a);
    both.rows(rows, rows).copy_from(b);
    return both;
  };
  return {one(first.cos, second.cos), one(first.sin, second.sin)};
}

Tensor rope_rows(const Tensor& position, const Tensor& context, std::int64_t limit, std::int64_t num_positions) {
  check(context.defined() && context.shape() == position.shape(), "rope: context is {}, expected {} as position",
        context.defined() ? fmt::format("{}", context.shape()) : "undefined", position.shape());
  Tensor rows = empty_like(position);
  on_device(rows, [&](const auto& device) {
    kernels::rope_rows(device, position.data<std::int32_t>(), context.data<std::int32_t>(), limit, num_positions,
                       rows.mutable_data<std::int32_t>(), rows.numel());
  });
  return rows;
}

std::pair<Var, Var> rope(Tape& tape, Var queries, Var keys, const Tensor& position, const RopeTable& table,
                         const TurningPart& of_queries, const TurningPart& of_keys) {
  const Parts parts{check_inputs("queries", queries, position, table, of_queries),
                    check_inputs("keys", keys, position, table, of_keys)};
  check(queries.value.dtype() == keys.value.dtype(), "rope: keys are {}, expected {} as queries", keys.value.dtype(),
        queries.value.dtype());
  const std::int64_t num_positions = table.cos.shape()[0];
  check_indices(position, 0, num_positions, [=](std::int64_t at, std::int64_t p) {
    return fmt::format("rope: position {} of token {} is not in the table of {} positions", p, at, num_positions);
  });
  auto [turned_queries, turned_keys] =
      rotated(std::move(queries.value), std::move(keys.value), position, table, /*direction=*/1, parts);
  std::pair<Var, Var> out{tape.output(std::move(turned_queries), {&queries}),
                          tape.output(std::move(turned_keys), {&keys})};
  if (out.first.slot || out.second.slot)
    tape.push({"rope",
               {queries.slot, keys.slot},
               [=, slots = std::pair(out.first.slot, out.second.slot), to_queries = queries.slot, to_keys = keys.slot,
                like_queries = outline(out.first.value), like_keys = outline(out.second.value), at = Saved(position),
                cos = Saved(table.cos), sin = Saved(table.sin)] {
                 const auto [dqueries, dkeys] =
                     rotated(taken_gradient(slots.first, like_queries), taken_gradient(slots.second, like_keys),
                             at.get(), {cos.get(), sin.get()}, /*direction=*/-1, parts);
                 accumulate(to_queries, dqueries);
                 accumulate(to_keys, dkeys);
               }});
  return out;
}

}  // namespace limbeck::core
