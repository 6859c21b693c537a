#include "core/ops/cross_entropy.h"

#include <cmath>

#include "core/device/index_check.h"
#include "core/ops/loss_value.h"
#include "kernels/distillation.h"

namespace limbeck::core {
namespace {

constexpr std::string_view op = "cross_entropy";

template <class T>
kernels::LogitsRows<T> rows_of(const Tensor& logits, const Tensor& targets) {
  const std::int64_t columns = logits.shape()[1];
  return {.n = logits.shape()[0],
          .columns = columns,
          .num_valid = columns,
          .student = logits.data<T>(),
          .targets = targets.data<std::int32_t>()};
}

void check_input(const Tensor& logits, const Tensor& targets) {
  check(logits.shape().rank() == 2, "{}: logits have shape {}, expected [T,V]", op, logits.shape());
  const std::int64_t rows = logits.shape()[0], columns = logits.shape()[1];
  check(targets.dtype() == DType::I32 && targets.shape() == Shape{rows},
        "{}: targets are {} {}, expected int32 [{}] (logits are {})", op, targets.dtype(), targets.shape(), rows,
        logits.shape());
  check_indices(targets, -1, columns, [=](std::int64_t at, std::int64_t target) {
    return fmt::format("{}: target {} is {}, expected -1 or one in [0,{})", op, at, target, columns);
  });
}

}  // namespace

Var cross_entropy(Tape& tape, const Var& logits, const Tensor& targets, std::int64_t global_count) {
  const Tensor& z = logits.value;
  check_input(z, targets);
  const std::int64_t n = z.shape()[0];
  Tensor maxima = Tensor::empty(z.memory(), DType::F64, {n}), columns = Tensor::empty(z.memory(), DType::F64, {n});
  Tensor sums = Tensor::empty(z.memory(), DType::F64, {n, kernels::num_logits_sums});
  dispatch_float(op, z.dtype(), [&]<class T>() {
    on_device(z, [&](const auto& device) {
      const auto rows = rows_of<T>(z, targets);
      auto* largest = maxima.mutable_data<double>();
      kernels::logits_maxima(device, rows, rows.student, largest, columns.mutable_data<double>());
      kernels::logits_sums(device, rows, largest, largest, sums.mutable_data<double>());
    });
  });
  const std::vector<std::int32_t> target = host_values<std::int32_t>(targets);
  const std::vector<double> row_sums = host_values<double>(sums);
  std::int64_t count = 0;
  double total = 0;
  for (std::int64_t t = 0; t < n; ++t) {
    if (target[static_cast<std::size_t>(t)] < 0) continue;
    const double* row = row_sums.data() + t * kernels::num_logits_sums;
    total += std::log(row[kernels::StudentSum]) - row[kernels::StudentTarget];
    ++count;
  }
  const double weight = mean_weight(op, count, global_count);
  Var out = tape.output(as_loss(Tensor::from<double>(z.memory(), {1}, {{total}}), weight, z.dtype()), {&logits});
  if (!out.slot) return out;
  tape.push({op,
             {logits.slot},
             [=, to = logits.slot, slot = out.slot, like = outline(out.value), saved_z = Saved(z),
              saved_targets = Saved(targets), saved_maxima = Saved(maxima), saved_sums = Saved(sums)] {
               const double factor = weight * host_value(gradient(slot, like));
               const Tensor& x = saved_z.get();
               Tensor dz = empty_like(x);
               Tensor unused = Tensor::empty(x.memory(), DType::F64, {n, kernels::num_gradient_sums});
               dispatch_float(op, x.dtype(), [&]<class T>() {
                 on_device(x, [&](const auto& device) {
                   const double* largest = saved_maxima.get().data<double>();
                   kernels::logits_gradient(device, rows_of<T>(x, saved_targets.get()), kernels::LossTerms(), largest,
                                            largest, saved_sums.get().data<double>(), nullptr, factor,
                                            dz.mutable_data<T>(), unused.mutable_data<double>());
                 });
               });
               accumulate(to, dz);
             }});
  return out;
}

}  // namespace limbeck::core
