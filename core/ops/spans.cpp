#include "core/ops/spans.h"

#include "kernels/bias.h"
#include "kernels/distillation.h"

namespace limbeck::core {

Tensor span_weights(const Tensor& each, const Tensor& teacher_each, const Tensor& table, double ce, Tensor& totals) {
  for (const auto& [name, losses] : {std::pair("each", &each), std::pair("teacher_each", &teacher_each)})
    check(
        losses->dtype() == DType::F64 && losses->shape().rank() == 2 && losses->shape()[1] == kernels::num_loss_columns,
        "span_weights: {} is {} {}, expected float64 [T,{}]", name, losses->dtype(), losses->shape(),
        static_cast<std::int64_t>(kernels::num_loss_columns));
  check(table.dtype() == DType::I64 && table.shape().rank() == 2 && table.shape()[1] == kernels::num_span_places,
        "span_weights: table is {} {}, expected int64 [n,{}]", table.dtype(), table.shape(),
        static_cast<std::int64_t>(kernels::num_span_places));
  check(totals.dtype() == DType::F64 && totals.shape() == Shape{kernels::num_span_columns},
        "span_weights: totals are {} {}, expected float64 [{}]", totals.dtype(), totals.shape(),
        static_cast<std::int64_t>(kernels::num_span_columns));
  check(ce >= 0 && ce <= 1, "span_weights: the weight of cross-entropy is {}, expected 0 to 1", ce);
  const std::int64_t tokens = each.shape()[0], n = table.shape()[0];
  Tensor weights = Tensor::empty(each.memory(), DType::F64, {tokens});
  Tensor of_spans = Tensor::empty(each.memory(), DType::F64, {n, kernels::num_span_columns});
  on_device(each, [&](const auto& device) {
    kernels::spans(device, each.data<double>(), teacher_each.data<double>(), table.data<std::int64_t>(), n, ce,
                   weights.mutable_data<double>(), tokens, of_spans.mutable_data<double>());
    kernels::column_sums(device, of_spans.data<double>(), /*add=*/true, totals.mutable_data<double>(), n,
                         kernels::num_span_columns);
  });
  return weights;
}

void check_span_table(std::span<const std::int64_t> table, std::int64_t tokens, std::int64_t teacher_tokens) {
  check(table.size() % kernels::num_span_places == 0, "spans: a table of {} numbers, expected {} a span", table.size(),
        static_cast<std::int64_t>(kernels::num_span_places));
  std::int64_t end = 0;
  for (std::size_t i = 0; i < table.size(); i += kernels::num_span_places) {
    const std::span<const std::int64_t> place = table.subspan(i, kernels::num_span_places);
    const std::int64_t first = place[kernels::SpanFirst], count = place[kernels::SpanTokens],
                       teacher_first = place[kernels::SpanTeacherFirst],
                       teacher_count = place[kernels::SpanTeacherTokens];
    check(first >= end && count > 0 && count <= tokens - first,
          "spans: span {} is of tokens [{},+{}) of {}, expected some behind those of the span before",
          i / kernels::num_span_places, first, count, tokens);
    check(teacher_first >= 0 && teacher_count > 0 && teacher_count <= teacher_tokens - teacher_first,
          "spans: span {} is of the teacher's tokens [{},+{}) of {}, expected some", i / kernels::num_span_places,
          teacher_first, teacher_count, teacher_tokens);
    end = first + count;
  }
}

}  // namespace limbeck::core
