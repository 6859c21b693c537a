#include "core/ops/match_rows.h"

#include "kernels/elementwise.h"
#include "kernels/sums.h"

namespace limbeck::core {

Var match_rows(Tape& tape, const Var& x, const Tensor& y, const Tensor& targets, kernels::RowDistance kind,
               const MatchOptions& options) {
  const Tensor& own = x.value;
  check(own.shape().rank() == 2, "match_rows: x has shape {}, expected [T,C]", own.shape());
  const std::int64_t rows = own.shape()[0], width = own.shape()[1];
  const DType dtype = sum_dtype(own.dtype());
  check(y.shape() == own.shape() && y.dtype() == dtype, "match_rows: y is {} {}, expected {} {} (x is {})", y.dtype(),
        y.shape(), dtype, own.shape(), own.dtype());
  check(targets.dtype() == DType::I32 && targets.shape() == Shape{rows},
        "match_rows: targets are {} {}, expected int32 [{}] (x is {})", targets.dtype(), targets.shape(), rows,
        own.shape());
  const auto weight = [weight = options.weight](const Tensor& scale) {
    return kernels::TokenWeight(weight, scale.defined() ? scale.data<double>() : nullptr);
  };
  Tensor distances = Tensor::empty(own.memory(), DType::F64, {rows}),
         squares = Tensor::empty(own.memory(), DType::F64, {rows}),
         total = Tensor::empty(own.memory(), DType::F64, {1});
  const bool adds_squares = options.squares.defined() && !tape.is_replay();
  Tensor sum = adds_squares ? Tensor::empty(own.memory(), DType::F64, {1}) : Tensor(), to_squares = options.squares;
  dispatch_activation("match_rows", own.dtype(), [&]<class T>() {
    on_device(own, [&](const auto& device) {
      kernels::row_distance(device, kind, own.data<T>(), y.data<kernels::Acc<T>>(), targets.data<std::int32_t>(),
                            weight(options.scale), distances.mutable_data<double>(), squares.mutable_data<double>(),
                            rows, width);
      kernels::sum(device, distances.data<double>(), rows, total.mutable_data<double>());
      if (!adds_squares) return;
      kernels::sum(device, squares.data<double>(), rows, sum.mutable_data<double>());
      kernels::add_to(device, sum.data<double>(), to_squares.mutable_data<double>(), 1);
    });
  });
  Var out = tape.output(total.to(dtype), {&x});
  if (!out.slot) return out;
  tape.push({"match_rows",
             {x.slot},
             [=, slot = out.slot, like = outline(out.value), to = x.slot, saved_x = Saved(own), saved_y = Saved(y),
              saved_targets = Saved(targets), scale = options.scale] {
               const Tensor dloss = gradient(slot, like);
               const Tensor& z = saved_x.get();
               Tensor dx = empty_like(z);
               dispatch_activation("match_rows", z.dtype(), [&]<class T>() {
                 on_device(dx, [&](const auto& device) {
                   kernels::row_distance_gradient(device, kind, z.data<T>(), saved_y.get().data<kernels::Acc<T>>(),
                                                  saved_targets.get().data<std::int32_t>(), weight(scale),
                                                  dloss.data<kernels::Acc<T>>(), dx.mutable_data<T>(), rows, width);
                 });
               });
               accumulate(to, dx);
             }});
  return out;
}

}  // namespace limbeck::core
