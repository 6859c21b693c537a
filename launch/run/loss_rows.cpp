#include "launch/run/loss_rows.h"

#include <array>
#include <optional>
#include <utility>

#include "core/ops/head_loss.h"
#include "optim/objectives.h"

namespace limbeck::launch {

using core::Tensor;

namespace {

constexpr std::size_t columns = 6;

std::array<double, columns> values_of(const LossSums& row) {
  return {row.tokens, row.ce, row.teacher_ce, row.kl, row.agreement, row.sum_min};
}

}  // namespace

LossRows::LossRows(Rank& rank, std::int64_t rows) : rank_(rank), rows_(static_cast<std::size_t>(rows)) {}

void LossRows::add(std::int64_t row, const core::TokenLoss& token) {
  rows_.at(static_cast<std::size_t>(row))
      .add({1, token.ce, token.teacher_ce, token.kl, token.agreement, token.sum_min});
}

std::vector<LossSums> LossRows::gather() const {
  Tensor all = Tensor::empty(rank_.host_memory(), core::DType::F64,
                             {static_cast<std::int64_t>(rows_.size()), static_cast<std::int64_t>(columns)});
  auto* out = all.mutable_host<double>();
  for (const LossSums& row : rows_)
    for (const double value : values_of(row)) *out++ = value;
  rank_.comms().batch->sum(all);
  const std::vector<double> values = core::host_values<double>(all);
  std::vector<LossSums> rows;
  for (auto v = values.begin(); v != values.end(); v += columns) rows.push_back({v[0], v[1], v[2], v[3], v[4], v[5]});
  return rows;
}

std::vector<core::TokenLoss> token_losses(Rank& rank, const Tensor& targets, const Predictions& p,
                                          std::int64_t valid_vocabulary) {
  core::Tape off(core::Tape::Mode::Off);
  std::optional<core::OnlineTeacher> teacher;
  if (p.teacher_hidden.defined()) teacher.emplace(p.teacher_hidden, p.teacher_head, p.teacher_head_bias);
  core::LossAccumulator losses(rank.memory(), /*keeps_each=*/true);
  const optim::LanguageModelling objective;  // the statistics do not depend on it
  core::head_loss(off, core::constant(p.hidden), core::constant(p.head), targets, objective,
                  teacher ? &*teacher : nullptr, *rank.comms().tensor,
                  {.vocabulary_offset = p.vocabulary_offset, .valid_vocabulary = valid_vocabulary}, losses,
                  core::constant(p.head_bias));
  return losses.read().each;
}

}  // namespace limbeck::launch
