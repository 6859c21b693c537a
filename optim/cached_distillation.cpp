#include "optim/cached_distillation.h"

#include <cmath>

#include "kernels/sparse_targets.h"
#include "optim/chunk_passes.h"

namespace limbeck::optim {

using core::check;
using core::DType;
using core::Tensor;

namespace {

template <class T>
kernels::SparseRows<T> rows_of(const core::LogitsChunk& chunk, const core::SparseTargets& sparse, bool renormalised) {
  kernels::SparseRows<T> rows;
  rows.logits.n = chunk.student.shape()[0];
  rows.logits.columns = chunk.student.shape()[1];
  rows.logits.num_valid = chunk.num_valid;
  rows.logits.student = chunk.student.data<T>();
  rows.logits.targets = chunk.targets.data<std::int32_t>();
  rows.logits.offset = chunk.vocabulary_offset;
  rows.logits.temperature = sparse.temperature;
  rows.kind = sparse.draws   ? kernels::SparseKind::Sampled
              : renormalised ? kernels::SparseKind::Renormalised
                             : kernels::SparseKind::Ghost;
  rows.width = sparse.ids.shape()[1];
  rows.ids = sparse.ids.data<std::int32_t>();
  rows.plain = {sparse.log_p.data<T>(), sparse.rest.data<T>()};
  rows.tempered = rows.plain;
  if (sparse.temperature != 1) rows.tempered = {sparse.log_p_tempered.data<T>(), sparse.rest_tempered.data<T>()};
  rows.likeliest = sparse.likeliest.data<std::int32_t>();
  rows.target_loss = sparse.target_loss.data<T>();
  return rows;
}

}  // namespace

void CachedDistillation::set(const CachedDistillationOptions& options) {
  check(options.ce_weight >= 0 && options.ce_weight <= 1,
        "cached distillation: the weight of cross-entropy is {}, expected 0 to 1", options.ce_weight);
  check(options.temperature > 0 && std::isfinite(options.temperature),
        "cached distillation: temperature is {}, expected a positive number", options.temperature);
  options_ = options;
}

void CachedDistillation::run(core::LogitsChunk& chunk, core::LossAccumulator& losses) const {
  check(chunk.sparse.has_value(), "cached distillation: the chunk has no sparse targets");
  const core::SparseTargets& sparse = *chunk.sparse;
  check(sparse.temperature == options_.temperature, "cached distillation: targets are of temperature {}, expected {}",
        sparse.temperature, options_.temperature);
  check(!chunk.row_weights.defined(), "cached distillation: rows have weights of their own, expected none");
  check(!sparse.draws || !options_.renormalised, "cached distillation: draws cannot be renormalised");
  const std::int64_t n = chunk.student.shape()[0];
  const auto& memory = chunk.student.memory();
  const double alpha = options_.ce_weight;
  Tensor maxima = Tensor::zeros(memory, DType::F64, {n}), indices = Tensor::zeros(memory, DType::F64, {n});
  Tensor sums = Tensor::empty(memory, DType::F64, {n, kernels::num_sparse_sums});
  Tensor parts = Tensor::empty(memory, DType::F64, {n, kernels::num_gradient_sums});
  Tensor kept = Tensor::empty(memory, chunk.student.dtype(), sparse.ids.shape());
  const kernels::TokenWeight weight(chunk.weight, chunk.scale.defined() ? chunk.scale.data<double>() : nullptr);
  double* const each = losses.keeps_each() ? losses.next(n).mutable_data<double>() : nullptr;
  core::dispatch_float("objective", chunk.student.dtype(), [&]<class T>() {
    const kernels::SparseRows<T> rows = rows_of<T>(chunk, sparse, options_.renormalised);
    core::on_device(chunk.student, [&](const auto& device) {
      kernels::logits_maxima(device, rows.logits, rows.logits.student, maxima.mutable_data<double>(),
                             indices.mutable_data<double>());
    });
    reduce_maxima(chunk.vocabulary, maxima, indices);
    core::on_device(chunk.student, [&](const auto& device) {
      kernels::sparse_sums(device, rows, maxima.data<double>(), kept.mutable_data<T>(), sums.mutable_data<double>());
    });
    chunk.vocabulary.sum(sums);
    core::on_device(chunk.student, [&](const auto& device) {
      with_gradient<T>(chunk, [&](auto* gradient) {
        kernels::sparse_gradient(device, rows, kept.data<T>(), maxima.data<double>(), sums.data<double>(), alpha,
                                 weight, gradient, parts.mutable_data<double>());
      });
    });
    chunk.vocabulary.sum(parts);
    core::on_device(chunk.student, [&](const auto& device) {
      kernels::add_sparse_losses(device, rows, indices.data<double>(), sums.data<double>(), parts.data<double>(), alpha,
                                 weight, losses.totals().mutable_data<double>(), each);
    });
  });
}

}  // namespace limbeck::optim
