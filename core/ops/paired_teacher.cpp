#include "core/ops/paired_teacher.h"

#include <algorithm>

#include "kernels/permute.h"
#include "kernels/spans.h"

namespace limbeck::core {
namespace {

/// One place of each span.
std::vector<std::int64_t> column_of(std::span<const std::int64_t> table, kernels::SpanPlace place) {
  std::vector<std::int64_t> column;
  for (std::size_t i = 0; i < table.size(); i += kernels::num_span_places)
    column.push_back(table[i + static_cast<std::size_t>(place)]);
  return column;
}

Tensor rows_at(const Tensor& x, const std::vector<std::int64_t>& places) {
  const std::int64_t n = std::ssize(places), width = x.shape()[1];
  const std::vector<std::int32_t> narrow(places.begin(), places.end());
  const Tensor source = Tensor::from<std::int32_t>(x.memory(), {n}, narrow);
  Tensor rows = Tensor::empty(x.memory(), x.dtype(), {n, width});
  dispatch_activation("paired teacher", x.dtype(), [&]<class T>() {
    on_device(x, [&](const auto& device) {
      kernels::permute_rows(device, x.data<T>(), source.data<std::int32_t>(), rows.mutable_data<T>(), n, 1, width);
    });
  });
  return rows;
}

Tensor pairs_of_tokens(const MemoryPtr& memory, const std::vector<std::int64_t>& places, std::int64_t tokens) {
  std::vector<std::int32_t> pair_of(static_cast<std::size_t>(tokens), -1);
  for (std::size_t pair = 0; pair < places.size(); ++pair)
    pair_of.at(static_cast<std::size_t>(places[pair])) = static_cast<std::int32_t>(pair);
  return Tensor::from<std::int32_t>(memory, {tokens}, pair_of);
}

}  // namespace

PairedTeacher::PairedTeacher(const Tensor& hidden, Tensor head, Tensor bias, std::span<const std::int64_t> table,
                             std::int64_t tokens, const Vocabularies& vocabularies, Tensor totals)
    : places_(column_of(table, kernels::SpanFirst)),
      pair_of_(pairs_of_tokens(hidden.memory(), places_, tokens)),
      teacher_(rows_at(hidden, column_of(table, kernels::SpanTeacherFirst)), std::move(head), std::move(bias)),
      vocabularies_(vocabularies),
      totals_(std::move(totals)) {}

Tensor PairedTeacher::logits(std::int64_t, std::int64_t) {
  fail("a teacher of other tokens has no logits of the student's");
}

PairedLogits PairedTeacher::paired(std::int64_t first, std::int64_t count) {
  const auto begin = std::ranges::lower_bound(places_, first), end = std::ranges::lower_bound(places_, first + count);
  const std::int64_t first_pair = begin - places_.begin();
  return {.logits = teacher_.logits(first_pair, end - begin),
          .pair_of = pair_of_.rows(first, count),
          .first = first_pair,
          .student = vocabularies_.student,
          .teacher = vocabularies_.teacher,
          .totals = totals_};
}

}  // namespace limbeck::core
