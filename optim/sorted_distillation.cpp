#include "optim/sorted_distillation.h"

#include "kernels/bias.h"
#include "kernels/sorted_rows.h"
#include "optim/chunk_passes.h"
#include "optim/objectives.h"

namespace limbeck::optim {

using core::check;
using core::DType;
using core::Tensor;

namespace {

/// All columns of rows that are cut over ranks.
Tensor whole(nn::TensorComm& comm, const Tensor& logits, const core::PairedLogits::Vocabulary& vocabulary) {
  Tensor all = comm.gather(logits, 1, vocabulary.size);
  check(all.shape()[1] == vocabulary.size && vocabulary.num_valid >= 0 && vocabulary.num_valid <= vocabulary.size,
        "sorted distillation: logits are {}, expected {} columns, of which {} count", all.shape(), vocabulary.size,
        vocabulary.num_valid);
  return all;
}

template <class T>
kernels::WholeRows<T> rows_of(const Tensor& logits, const core::PairedLogits::Vocabulary& vocabulary) {
  return {.logits = logits.data<T>(), .columns = vocabulary.size, .num_valid = vocabulary.num_valid};
}

}  // namespace

void SortedDistillation::set(double ce_weight) {
  check(ce_weight >= 0 && ce_weight <= 1, "sorted distillation: the weight of cross-entropy is {}, expected 0 to 1",
        ce_weight);
  ce_weight_ = ce_weight;
}

void SortedDistillation::run(core::LogitsChunk& chunk, core::LossAccumulator& losses) const {
  if (!chunk.paired) return LanguageModelling().run(chunk, losses);
  core::PairedLogits& paired = *chunk.paired;
  const std::int64_t n = chunk.student.shape()[0];
  const auto& memory = chunk.student.memory();
  check(paired.totals.dtype() == DType::F64 && paired.totals.shape() == core::Shape{kernels::num_sorted_columns},
        "sorted distillation: totals are {} {}, expected float64 [{}]", paired.totals.dtype(), paired.totals.shape(),
        static_cast<std::int64_t>(kernels::num_sorted_columns));
  check(paired.logits.dtype() == chunk.student.dtype(),
        "sorted distillation: the teacher's logits are {}, expected the student's {}", paired.logits.dtype(),
        chunk.student.dtype());
  const Tensor student = whole(chunk.vocabulary, chunk.student, paired.student),
               teacher = whole(chunk.vocabulary, paired.logits, paired.teacher);
  Tensor maxima = Tensor::zeros(memory, DType::F64, {1, n});
  const Tensor both_indices = Tensor::zeros(memory, DType::F64, {2, n});  // of no teacher zeros
  Tensor indices = both_indices.rows(0, 1);
  Tensor sums = Tensor::empty(memory, DType::F64, {n, kernels::num_logits_sums});
  Tensor of_rows = Tensor::empty(memory, DType::F64, {n, kernels::num_sorted_columns});
  const Tensor parts = Tensor::zeros(memory, DType::F64, {n, kernels::num_gradient_sums});
  const auto given = [](const Tensor& t) { return t.defined() ? t.data<double>() : nullptr; };
  const kernels::TokenWeight weight(chunk.weight, given(chunk.scale), given(chunk.row_weights));
  double* const each = losses.keeps_each() ? losses.next(n).mutable_data<double>() : nullptr;
  core::dispatch_float("objective", chunk.student.dtype(), [&]<class T>() {
    const kernels::SortedRows<T> rows{.part = {.n = n,
                                               .columns = chunk.student.shape()[1],
                                               .num_valid = chunk.num_valid,
                                               .student = chunk.student.data<T>(),
                                               .targets = chunk.targets.data<std::int32_t>(),
                                               .offset = chunk.vocabulary_offset},
                                      .student = rows_of<T>(student, paired.student),
                                      .teacher = rows_of<T>(teacher, paired.teacher),
                                      .pair_of = paired.pair_of.data<std::int32_t>(),
                                      .first_pair = paired.first};
    core::on_device(chunk.student, [&](const auto& device) {
      kernels::logits_maxima(device, rows.part, rows.part.student, maxima.mutable_data<double>(),
                             indices.mutable_data<double>());
    });
    reduce_maxima(chunk.vocabulary, maxima, indices);
    core::on_device(chunk.student, [&](const auto& device) {
      kernels::logits_sums(device, rows.part, maxima.data<double>(), maxima.data<double>(),
                           sums.mutable_data<double>());
    });
    chunk.vocabulary.sum(sums);
    const std::int64_t room_bytes = core::on_device(
        chunk.student, [&](const auto& device) { return std::int64_t{kernels::sorting_room(device, rows)}; });
    Tensor room = Tensor::empty(memory, DType::U8, {room_bytes});
    core::on_device(chunk.student, [&](const auto& device) {
      with_gradient<T>(chunk, [&](auto* gradient) {
        kernels::sorted_gradient(device, rows, ce_weight_, maxima.data<double>(), sums.data<double>(), weight, gradient,
                                 of_rows.mutable_data<double>(),
                                 reinterpret_cast<std::byte*>(room.mutable_data<std::uint8_t>()));
      });
      kernels::column_sums(device, of_rows.data<double>(), /*add=*/true, paired.totals.mutable_data<double>(), n,
                           kernels::num_sorted_columns);
      kernels::add_losses(device, rows.part, {.ce = ce_weight_}, both_indices.data<double>(), sums.data<double>(),
                          nullptr, parts.data<double>(), weight, losses.totals().mutable_data<double>(), each);
    });
  });
}

}  // namespace limbeck::optim
