#include "core/ops/preference.h"

#include "kernels/bias.h"
#include "kernels/distillation.h"

namespace limbeck::core {

Tensor preference_weights(const Tensor& each, const Tensor& document, const Tensor& sequence_offsets, double beta,
                          Tensor& totals) {
  const std::int64_t tokens = document.numel(), pairs = sequence_offsets.numel() - 1;
  check(each.dtype() == DType::F64 && each.shape() == Shape{tokens, kernels::num_loss_columns},
        "preference_weights: each is {} {}, expected float64 [{},{}] (document is {})", each.dtype(), each.shape(),
        tokens, static_cast<std::int64_t>(kernels::num_loss_columns), document.shape());
  check(document.dtype() == DType::I32 && sequence_offsets.dtype() == DType::I64 && pairs >= 0,
        "preference_weights: document is {}, sequence_offsets are {} {}, expected int32 and int64 [N+1]",
        document.dtype(), sequence_offsets.dtype(), sequence_offsets.shape());
  check(totals.dtype() == DType::F64 && totals.shape() == Shape{kernels::num_preference_columns},
        "preference_weights: totals are {} {}, expected float64 [{}]", totals.dtype(), totals.shape(),
        static_cast<std::int64_t>(kernels::num_preference_columns));
  check(beta > 0, "preference_weights: beta is {}, expected a number above 0", beta);
  Tensor weights = Tensor::empty(each.memory(), DType::F64, {tokens});
  Tensor of_pairs = Tensor::empty(each.memory(), DType::F64, {pairs, kernels::num_preference_columns});
  on_device(each, [&](const auto& device) {
    kernels::preference(device, each.data<double>(), document.data<std::int32_t>(),
                        sequence_offsets.data<std::int64_t>(), pairs, beta, weights.mutable_data<double>(),
                        of_pairs.mutable_data<double>());
    kernels::column_sums(device, of_pairs.data<double>(), /*add=*/true, totals.mutable_data<double>(), pairs,
                         kernels::num_preference_columns);
  });
  return weights;
}

}  // namespace limbeck::core
