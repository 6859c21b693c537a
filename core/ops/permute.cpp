#include "core/ops/permute.h"

#include <limits>

#include "core/device/index_check.h"
#include "kernels/permute.h"

namespace limbeck::core {
namespace {

Tensor permuted(const Tensor& x, const Permutation& order) {
  const std::int64_t num_rows = order.num_rows, selected = order.experts_per_token, width = x.shape()[1];
  Tensor rows = Tensor::empty(x.memory(), x.dtype(), {num_rows, width});
  dispatch_activation("permute", x.dtype(), [&]<class T>() {
    on_device(x, [&](const auto& device) {
      kernels::permute_rows(device, x.data<T>(), order.source.data<std::int32_t>(), rows.mutable_data<T>(), num_rows,
                            selected, width);
    });
  });
  return rows;
}

Tensor unpermuted(const Tensor& rows, const Tensor* weights, const Tensor& row_of, const Permutation& order) {
  const std::int64_t tokens = order.num_tokens, selected = order.experts_per_token, width = rows.shape()[1];
  Tensor y = Tensor::empty(rows.memory(), rows.dtype(), {tokens, width});
  dispatch_activation("unpermute", rows.dtype(), [&]<class T>() {
    on_device(rows, [&](const auto& device) {
      kernels::unpermute_rows(device, rows.data<T>(), row_of.data<std::int32_t>(),
                              weights ? weights->data<kernels::Acc<T>>() : nullptr, y.mutable_data<T>(), tokens,
                              selected, width);
    });
  });
  return y;
}

struct UnpermuteGradients {
  Tensor rows, weights;
};

/// Of rows and weights, as far as they are wanted; `rows` is read for that of the weights alone.
UnpermuteGradients unpermute_gradients(const Tensor& rows, const Tensor& weights, const Tensor& source,
                                       const Tensor& dy, const Permutation& order, bool of_rows, bool of_weights) {
  const std::int64_t tokens = order.num_tokens, selected = order.experts_per_token, width = dy.shape()[1];
  UnpermuteGradients result;
  if (of_rows) result.rows = Tensor::empty(dy.memory(), dy.dtype(), {order.num_rows, width});
  if (of_weights) result.weights = empty_like(weights);
  dispatch_activation("unpermute", dy.dtype(), [&]<class T>() {
    using Wide = kernels::Acc<T>;
    on_device(dy, [&](const auto& device) {
      kernels::unpermute_gradient(device, of_weights ? rows.data<T>() : nullptr, source.data<std::int32_t>(),
                                  weights.data<Wide>(), dy.data<T>(), of_rows ? result.rows.mutable_data<T>() : nullptr,
                                  of_weights ? result.weights.mutable_data<Wide>() : nullptr, order.num_rows, tokens,
                                  selected, width);
    });
  });
  return result;
}

}  // namespace

Tensor renumbered(const Tensor& selection, const Tensor& number) {
  Tensor result = empty_like(selection);
  on_device(selection, [&](const auto& device) {
    kernels::renumber(device, selection.data<std::int32_t>(), number.data<std::int32_t>(),
                      result.mutable_data<std::int32_t>(), selection.numel());
  });
  return result;
}

Tensor Permutation::offsets() const {
  Tensor offsets = Tensor::empty(counts.memory(), DType::I64, {counts.numel() + 1});
  on_device(counts, [&](const auto& device) {
    kernels::offsets_of_counts(device, counts.data<std::int64_t>(), counts.numel(),
                               offsets.mutable_data<std::int64_t>());
  });
  return offsets;
}

Permutation make_permutation(const Tensor& selection, std::int64_t num_experts, Drops drops,
                             std::optional<std::int64_t> num_rows) {
  check(selection.shape().rank() == 2, "permute: selection has shape {}, expected [T,K]", selection.shape());
  const std::int64_t tokens = selection.shape()[0], selected = selection.shape()[1];
  const std::int64_t n = selection.numel();
  check(n <= std::numeric_limits<std::int32_t>::max(), "permute: {} assignments, expected below 2^31", n);
  const MemoryPtr& memory = selection.memory();
  check_indices(selection, drops == Drops::Some ? -1 : 0, num_experts, [=](std::int64_t at, std::int64_t expert) {
    return fmt::format("permute: token {} goes to expert {}, expected one in [0,{})", at / selected, expert,
                       num_experts);
  });
  Permutation order{tokens,
                    selected,
                    num_rows.value_or(n),
                    Tensor::empty(memory, DType::I64, {num_experts}),
                    Tensor::empty(memory, DType::I32, {n}),
                    Tensor::empty(memory, DType::I32, {n})};
  check(order.num_rows <= n, "permute: {} rows, expected at most {}", order.num_rows, n);
  on_device(selection, [&](const auto& device) {
    kernels::sort_by_expert(device, selection.data<std::int32_t>(), tokens, selected, num_experts,
                            order.counts.mutable_data<std::int64_t>(), order.row_of.mutable_data<std::int32_t>(),
                            order.source.mutable_data<std::int32_t>());
  });
  return order;
}

Var permute(Tape& tape, const Var& x, const Permutation& order) {
  check(x.shape().rank() == 2 && x.shape()[0] == order.num_tokens, "permute: x has shape {}, expected [{},C]",
        x.shape(), order.num_tokens);
  Var out = tape.output(permuted(x.value, order), {&x});
  if (out.slot)
    tape.push({"permute",
               {x.slot},
               [=, slot = out.slot, like = outline(out.value), to = x.slot, row_of = Saved(order.row_of)] {
                 accumulate(to, unpermuted(gradient(slot, like), nullptr, row_of.get(), order));
               }});
  return out;
}

Var unpermute(Tape& tape, const Var& rows, const Var& weights, const Permutation& order) {
  const Shape expected{order.num_tokens, order.experts_per_token};
  check(rows.shape().rank() == 2 && rows.shape()[0] == order.num_rows, "unpermute: rows have shape {}, expected [{},C]",
        rows.shape(), order.num_rows);
  check(weights.shape() == expected, "unpermute: weights have shape {}, expected {} (rows are {})", weights.shape(),
        expected, rows.shape());
  const DType sums = sum_dtype(rows.value.dtype());
  check(weights.value.dtype() == sums, "unpermute: weights are {}, expected {} beside rows of {}",
        weights.value.dtype(), sums, rows.value.dtype());
  Var out = tape.output(unpermuted(rows.value, &weights.value, order.row_of, order), {&rows, &weights});
  if (!out.slot) return out;
  tape.push({"unpermute",
             {rows.slot, weights.slot},
             [=, slot = out.slot, like = outline(out.value), to_rows = rows.slot, to_weights = weights.slot,
              saved_rows = Saved(weights.slot ? rows.value : Tensor()), saved_weights = Saved(weights.value),
              source = Saved(order.source)] {
               const auto [drows, dweights] =
                   unpermute_gradients(saved_rows.get(), saved_weights.get(), source.get(), gradient(slot, like), order,
                                       to_rows != nullptr, to_weights != nullptr);
               accumulate(to_rows, drows);
               accumulate(to_weights, dweights);
             }});
  return out;
}

}  // namespace limbeck::core
