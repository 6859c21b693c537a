#include "optim/objectives.h"

#include <cmath>

#include "kernels/distillation.h"
#include "optim/chunk_passes.h"

namespace limbeck::optim {
namespace {

using core::DType;
using core::LogitsChunk;
using core::LossAccumulator;
using core::Tensor;

/// Losses and their gradient. Row results are reduced over the parts of the vocabulary.
void run_chunk(LogitsChunk& chunk, const kernels::LossTerms& terms, double temperature, LossAccumulator& losses) {
  const std::int64_t n = chunk.student.shape()[0];
  const auto& memory = chunk.student.memory();
  const bool has_teacher = chunk.teacher.defined();
  Tensor both_maxima = Tensor::zeros(memory, DType::F64, {2, n});   // student, teacher
  Tensor both_indices = Tensor::zeros(memory, DType::F64, {2, n});  // the lowest column with the maximum
  Tensor sums = Tensor::empty(memory, DType::F64, {n, kernels::num_logits_sums});
  Tensor parts = Tensor::empty(memory, DType::F64, {n, kernels::num_gradient_sums});
  Tensor divergence;
  if (!terms.needs_no_sums()) divergence = Tensor::empty(memory, DType::F64, {n, kernels::num_divergence_sums});
  const auto on_device = [](const Tensor& t) { return t.defined() ? t.data<double>() : nullptr; };
  const kernels::TokenWeight weight(chunk.weight, on_device(chunk.scale), on_device(chunk.row_weights));
  double* const each = losses.keeps_each() ? losses.next(n).mutable_data<double>() : nullptr;
  core::dispatch_float("objective", chunk.student.dtype(), [&]<class T>() {
    const kernels::LogitsRows<T> logits{.n = n,
                                        .columns = chunk.student.shape()[1],
                                        .num_valid = chunk.num_valid,
                                        .student = chunk.student.data<T>(),
                                        .teacher = has_teacher ? chunk.teacher.data<T>() : nullptr,
                                        .targets = chunk.targets.data<std::int32_t>(),
                                        .offset = chunk.vocabulary_offset,
                                        .temperature = temperature};
    auto* maxima = both_maxima.mutable_data<double>();
    auto* indices = both_indices.mutable_data<double>();
    core::on_device(chunk.student, [&](const auto& device) {
      kernels::logits_maxima(device, logits, logits.student, maxima, indices);
      if (has_teacher) kernels::logits_maxima(device, logits, logits.teacher, maxima + n, indices + n);
    });
    reduce_maxima(chunk.vocabulary, both_maxima, both_indices);
    core::on_device(chunk.student, [&](const auto& device) {
      kernels::logits_sums(device, logits, maxima, maxima + n, sums.mutable_data<double>());
    });
    chunk.vocabulary.sum(sums);
    if (divergence.defined()) {
      core::on_device(chunk.student, [&](const auto& device) {
        kernels::divergence_sums(device, logits, terms, maxima, maxima + n, sums.data<double>(),
                                 divergence.mutable_data<double>());
      });
      chunk.vocabulary.sum(divergence);
    }
    const double* of_divergence = divergence.defined() ? divergence.data<double>() : nullptr;
    core::on_device(chunk.student, [&](const auto& device) {
      with_gradient<T>(chunk, [&](auto* gradient) {
        kernels::logits_gradient(device, logits, terms, maxima, maxima + n, sums.data<double>(), of_divergence, weight,
                                 gradient, parts.mutable_data<double>());
      });
    });
    chunk.vocabulary.sum(parts);
    core::on_device(chunk.student, [&](const auto& device) {
      kernels::add_losses(device, logits, terms, indices, sums.data<double>(), of_divergence, parts.data<double>(),
                          weight, losses.totals().mutable_data<double>(), each);
    });
  });
}

}  // namespace

void LanguageModelling::run(LogitsChunk& chunk, LossAccumulator& losses) const { run_chunk(chunk, {}, 1, losses); }

void Distillation::set(const DistillationOptions& options) {
  core::check(options.ce_weight >= 0 && options.ce_weight <= 1,
              "distillation: the weight of cross-entropy is {}, expected 0 to 1", options.ce_weight);
  core::check(options.temperature > 0 && std::isfinite(options.temperature),
              "distillation: temperature is {}, expected a positive number", options.temperature);
  core::check(options.mix >= 0 && options.mix <= 1, "distillation: the mix is {}, expected 0 to 1", options.mix);
  using enum kernels::Divergence;
  core::check(options.mix < 1 || (options.divergence != SkewKl && options.divergence != ReverseSkewKl),
              "distillation: the mix of a skew KL is {}, expected less than 1, where it is 0 of any student",
              options.mix);
  options_ = options;
  auto& kind = options_.divergence;
  if (options.mix == 0 && (kind == JensenShannon || kind == SkewKl)) kind = ForwardKl;
  if (options.mix == 0 && kind == ReverseSkewKl) kind = ReverseKl;
  if (options.mix == 1 && kind == JensenShannon) kind = ReverseKl;
}

void Distillation::run(LogitsChunk& chunk, LossAccumulator& losses) const {
  core::check(chunk.teacher.defined(), "distillation: the chunk has no teacher's logits");
  run_chunk(chunk,
            {.ce = options_.ce_weight,
             .divergence = 1 - options_.ce_weight,
             .kind = options_.divergence,
             .mix = options_.mix},
            options_.temperature, losses);
}

}  // namespace limbeck::optim
