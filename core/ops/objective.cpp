#include "core/ops/objective.h"

#include "kernels/distillation.h"
#include "kernels/elementwise.h"

namespace limbeck::core {

void LossSums::add(const LossSums& other) {
  tokens += other.tokens;
  ce += other.ce;
  teacher_ce += other.teacher_ce;
  kl += other.kl;
  agreement += other.agreement;
  sum_min += other.sum_min;
}

LossStatistics::LossStatistics(std::span<const double> totals)
    : LossSums{.tokens = totals[kernels::LossTokens],
               .ce = totals[kernels::LossCe],
               .teacher_ce = totals[kernels::LossTeacherCe],
               .kl = totals[kernels::LossKl],
               .agreement = totals[kernels::LossAgreement],
               .sum_min = totals[kernels::LossSumMin]},
      loss(totals[kernels::LossObjective]),
      ce_square(totals[kernels::LossCeSquare]),
      divergence_square(totals[kernels::LossDivergenceSquare]) {}

LossAccumulator::LossAccumulator(const MemoryPtr& memory, bool keeps_each)
    : keeps_each_(keeps_each), totals_(Tensor::zeros(memory, DType::F64, {kernels::num_loss_totals})) {}

Tensor& LossAccumulator::next(std::int64_t n) {
  each_.push_back(Tensor::empty(totals_.memory(), DType::F64, {n, kernels::num_loss_columns}));
  return each_.back();
}

void LossAccumulator::add(const LossAccumulator& other) {
  on_device(totals_, [&](const auto& device) {
    kernels::add_to(device, other.totals_.data<double>(), totals_.mutable_data<double>(), totals_.numel());
  });
  each_.insert(each_.end(), other.each_.begin(), other.each_.end());
}

Tensor LossAccumulator::each() const {
  std::int64_t rows = 0;
  for (const Tensor& chunk : each_) rows += chunk.shape()[0];
  Tensor all = Tensor::empty(totals_.memory(), DType::F64, {rows, kernels::num_loss_columns});
  std::int64_t first = 0;
  for (const Tensor& chunk : each_) {
    const std::int64_t count = chunk.shape()[0];
    if (count > 0) all.rows(first, count).copy_from(chunk);
    first += count;
  }
  return all;
}

LossStatistics LossAccumulator::read() const {
  HostCopy totals(totals_);
  std::vector<HostCopy> each(each_.begin(), each_.end());
  LossStatistics statistics(totals.get<double>());
  for (HostCopy& chunk : each) {
    const std::span<const double> values = chunk.get<double>();
    for (std::size_t at = 0; at < values.size(); at += kernels::num_loss_columns) {
      const auto row = values.subspan(at, kernels::num_loss_columns);
      if (row[kernels::LossTokens] != 0)
        statistics.each.push_back({row[kernels::LossCe], row[kernels::LossTeacherCe], row[kernels::LossKl],
                                   row[kernels::LossAgreement], row[kernels::LossSumMin]});
    }
  }
  return statistics;
}

}  // namespace limbeck::core
