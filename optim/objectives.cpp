#include "optim/objectives.h"

#include <cmath>
#include <limits>

#include "kernels/distillation.h"

namespace limbeck::optim {
namespace {

using core::DType;
using core::LogitsChunk;
using core::LossStatistics;
using core::Tensor;

/// Row results, reduced over the parts of the vocabulary.
struct Rows {
  Tensor maxima;   // [2,n] float64: student, teacher
  Tensor indices;  // [2,n] float64: the lowest column with the maximum
  Tensor sums;     // [n,num_logits_sums] float64
  Tensor sum_min;  // [n] float64
};

/// The lowest index over the parts whose maximum is the maximum of all, by a maximum of negated indices.
void reduce_indices(nn::TensorComm& comm, const std::vector<double>& own, const Tensor& maxima, Tensor& indices) {
  if (comm.size() == 1) return;
  auto* index = indices.mutable_data<double>();
  for (std::int64_t i = 0; i < indices.numel(); ++i)
    index[i] = own[static_cast<std::size_t>(i)] == maxima.data<double>()[i] ? -index[i]
                                                                            : -std::numeric_limits<double>::infinity();
  comm.max(indices);
  for (std::int64_t i = 0; i < indices.numel(); ++i) index[i] = -index[i];
}

/// alpha CE + (1 - alpha) T^2 KL_T, and its gradient.
Rows reduce_rows(LogitsChunk& chunk, double alpha, double temperature) {
  const std::int64_t n = chunk.student.shape()[0];
  const auto& memory = chunk.student.memory();
  const bool has_teacher = chunk.teacher.defined();
  Rows rows{Tensor::zeros(memory, DType::F64, {2, n}), Tensor::zeros(memory, DType::F64, {2, n}),
            Tensor::empty(memory, DType::F64, {n, kernels::num_logits_sums}), Tensor::empty(memory, DType::F64, {n})};
  core::dispatch_float("objective", chunk.student.dtype(), [&]<class T>() {
    core::on_device(chunk.student, [&](const auto& device) {
      const kernels::LogitsRows<T> logits{.n = n,
                                          .columns = chunk.student.shape()[1],
                                          .num_valid = chunk.num_valid,
                                          .student = chunk.student.data<T>(),
                                          .teacher = has_teacher ? chunk.teacher.data<T>() : nullptr,
                                          .targets = chunk.targets.data<std::int32_t>(),
                                          .offset = chunk.vocabulary_offset,
                                          .temperature = temperature};
      auto* maxima = rows.maxima.mutable_data<double>();
      auto* indices = rows.indices.mutable_data<double>();
      kernels::logits_maxima(device, logits, logits.student, maxima, indices);
      if (has_teacher) kernels::logits_maxima(device, logits, logits.teacher, maxima + n, indices + n);
      const std::vector<double> own(maxima, maxima + 2 * n);
      chunk.vocabulary.max(rows.maxima);
      reduce_indices(chunk.vocabulary, own, rows.maxima, rows.indices);
      kernels::logits_sums(device, logits, maxima, maxima + n, rows.sums.mutable_data<double>());
      chunk.vocabulary.sum(rows.sums);
      const auto write_gradient = [&](auto* gradient) {
        kernels::logits_gradient(device, logits, maxima, maxima + n, rows.sums.data<double>(), alpha, chunk.weight,
                                 gradient, rows.sum_min.mutable_data<double>());
      };
      if (!chunk.gradient.defined())
        write_gradient(static_cast<T*>(nullptr));
      else if (chunk.gradient.dtype() == chunk.student.dtype())
        write_gradient(chunk.gradient.mutable_data<T>());
      else if constexpr (std::is_same_v<T, float>)
        write_gradient(chunk.gradient.mutable_data<core::bf16>());
      chunk.vocabulary.sum(rows.sum_min);
    });
  });
  return rows;
}

void run_chunk(LogitsChunk& chunk, double alpha, double temperature, LossStatistics& statistics) {
  const Rows rows = reduce_rows(chunk, alpha, temperature);
  const auto targets = core::host_values<std::int32_t>(chunk.targets);
  const auto n = static_cast<std::int64_t>(targets.size());
  const bool has_teacher = chunk.teacher.defined();
  const auto* index = rows.indices.data<double>();
  for (std::int64_t i = 0; i < n; ++i) {
    if (targets[static_cast<std::size_t>(i)] < 0) continue;
    const double* sum = rows.sums.data<double>() + i * kernels::num_logits_sums;
    const double ce = std::log(sum[kernels::StudentSum]) - sum[kernels::StudentTarget];
    double loss = alpha * ce;
    core::TokenLoss token{.ce = ce};
    if (has_teacher) {
      // sum p (log p - log q), with logits less their maxima: no large numbers cancel.
      const auto divergence = [&](double student, double teacher, double difference) {
        return difference / teacher - std::log(teacher) + std::log(student);
      };
      const double kl = divergence(sum[kernels::StudentSum], sum[kernels::TeacherSum], sum[kernels::Difference]);
      const double kl_tempered = divergence(sum[kernels::StudentSumTempered], sum[kernels::TeacherSumTempered],
                                            sum[kernels::DifferenceTempered]);
      if (alpha != 1) loss += (1 - alpha) * temperature * temperature * kl_tempered;
      token.teacher_ce = std::log(sum[kernels::TeacherSum]) - sum[kernels::TeacherTarget];
      token.kl = kl;
      token.agreement = index[i] == index[n + i] ? 1 : 0;
      token.sum_min = rows.sum_min.data<double>()[i];
    }
    statistics.tokens += 1;
    statistics.ce += token.ce;
    statistics.teacher_ce += token.teacher_ce;
    statistics.kl += token.kl;
    statistics.agreement += token.agreement;
    statistics.sum_min += token.sum_min;
    if (statistics.keeps_each) statistics.each.push_back(token);
    statistics.loss += chunk.weight * loss;
  }
}

}  // namespace

void LanguageModelling::run(LogitsChunk& chunk, LossStatistics& statistics) const {
  run_chunk(chunk, 1, 1, statistics);
}

Distillation::Distillation(const DistillationOptions& options) : options_(options) {
  core::check(options.ce_weight >= 0 && options.ce_weight <= 1,
              "distillation: the weight of cross-entropy is {}, expected 0 to 1", options.ce_weight);
  core::check(options.temperature > 0 && std::isfinite(options.temperature),
              "distillation: temperature is {}, expected a positive number", options.temperature);
}

void Distillation::run(LogitsChunk& chunk, LossStatistics& statistics) const {
  core::check(chunk.teacher.defined(), "distillation: the chunk has no teacher's logits");
  run_chunk(chunk, options_.ce_weight, options_.temperature, statistics);
}

}  // namespace limbeck::optim
