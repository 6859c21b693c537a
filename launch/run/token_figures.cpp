#include "launch/run/token_figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>

#include "core/ops/head_loss.h"
#include "kernels/distillation.h"
#include "optim/cached_distillation.h"
#include "optim/chunk_passes.h"
#include "optim/objectives.h"

namespace limbeck::launch {

using core::DType;
using core::Tensor;

namespace {

constexpr std::int64_t columns = 8, columns_alone = 3;

/// One number: a probability is above 0, and less than 0 where it is not that of the target.
double packed(const TopPrediction& top) { return top.is_right ? top.probability : -top.probability; }
TopPrediction unpacked(double value) { return {std::abs(value), value > 0}; }

/// Of a chunk of logits, on the device.
struct ChunkTops {
  Tensor index;  // [n] float64: the lowest column with the maximum
  Tensor sums;   // [n,num_logits_sums]: StudentSum is 1 / the probability of that column
};

ChunkTops tops_of(const core::LogitsChunk& chunk, const Tensor& logits) {
  const std::int64_t n = logits.shape()[0];
  const auto& memory = logits.memory();
  Tensor maxima = Tensor::empty(memory, DType::F64, {n});
  ChunkTops tops{Tensor::empty(memory, DType::F64, {n}),
                 Tensor::empty(memory, DType::F64, {n, kernels::num_logits_sums})};
  core::dispatch_float("token figures", logits.dtype(), [&]<class T>() {
    const kernels::LogitsRows<T> rows{.n = n,
                                      .columns = logits.shape()[1],
                                      .num_valid = chunk.num_valid,
                                      .student = logits.data<T>(),
                                      .targets = chunk.targets.data<std::int32_t>(),
                                      .offset = chunk.vocabulary_offset};
    core::on_device(logits, [&](const auto& device) {
      kernels::logits_maxima(device, rows, rows.student, maxima.mutable_data<double>(),
                             tops.index.mutable_data<double>());
    });
    optim::reduce_maxima(chunk.vocabulary, maxima, tops.index);
    core::on_device(logits, [&](const auto& device) {
      kernels::logits_sums(device, rows, maxima.data<double>(), maxima.data<double>(),
                           tops.sums.mutable_data<double>());
    });
    chunk.vocabulary.sum(tops.sums);
  });
  return tops;
}

/// Cross-entropy and what a teacher adds to it, and what the models hold most likely.
class Measuring final : public core::Objective {
 public:
  bool needs_teacher() const override { return false; }
  void run(core::LogitsChunk& chunk, core::LossAccumulator& losses) const override {
    tops_.push_back(tops_of(chunk, chunk.student));
    if (chunk.teacher.defined()) teacher_tops_.push_back(tops_of(chunk, chunk.teacher));
    if (chunk.sparse)
      of_a_part_.run(chunk, losses);
    else
      language_modelling_.run(chunk, losses);
  }
  const std::vector<ChunkTops>& tops() const { return tops_; }
  const std::vector<ChunkTops>& teacher_tops() const { return teacher_tops_; }

 private:
  optim::LanguageModelling language_modelling_;
  optim::CachedDistillation of_a_part_{{.ce_weight = 1, .temperature = 1}};
  mutable std::vector<ChunkTops> tops_, teacher_tops_;  // a chunk each, in order
};

/// Those of the tokens that have a target.
std::vector<TopPrediction> read_tops(const std::vector<ChunkTops>& chunks, const std::vector<std::int32_t>& targets) {
  std::vector<TopPrediction> tops;
  auto target = targets.begin();
  for (const ChunkTops& chunk : chunks) {
    const std::vector<double> index = core::host_values<double>(chunk.index);
    const std::vector<double> sums = core::host_values<double>(chunk.sums);
    for (std::size_t i = 0; i < index.size(); ++i, ++target)
      if (*target >= 0)
        tops.push_back(
            {1 / sums[i * kernels::num_logits_sums + kernels::StudentSum], index[i] == static_cast<double>(*target)});
  }
  return tops;
}

/// The teacher's, where a part of its distributions is known. Shares of draws are no probabilities.
std::vector<TopPrediction> read_tops(const core::SparseTargets& sparse, const std::vector<std::int32_t>& targets) {
  const std::vector<std::int32_t> ids = core::host_values<std::int32_t>(sparse.ids);
  const std::vector<std::int32_t> likeliest = core::host_values<std::int32_t>(sparse.likeliest);
  const std::vector<double> log_p = core::host_values<double>(sparse.log_p.to(core::DType::F64));
  const std::int64_t width = sparse.ids.shape()[1];
  std::vector<TopPrediction> tops;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (targets[i] < 0) continue;
    TopPrediction& top = tops.emplace_back();
    if (sparse.draws) continue;
    const auto row = ids.begin() + static_cast<std::int64_t>(i) * width;
    const auto at = std::find(row, row + width, likeliest[i]);
    if (at != row + width)
      top = {std::exp(log_p[static_cast<std::size_t>(at - ids.begin())]), likeliest[i] == targets[i]};
  }
  return tops;
}

}  // namespace

void FigureSums::add(const TokenFigures& token) {
  LossSums::add({1, token.ce, token.teacher_ce, token.kl, token.agreement, token.sum_min});
  calibration.add(token.top.probability, token.top.is_right);
  if (token.teacher_top.probability > 0)
    teacher_calibration.add(token.teacher_top.probability, token.teacher_top.is_right);
}

void FigureSums::add(const FigureSums& other) {
  LossSums::add(other);
  calibration.add(other.calibration);
  teacher_calibration.add(other.teacher_calibration);
}

TokenRows::TokenRows(Rank& rank, std::int64_t rows, std::optional<Known> teacher)
    : rank_(rank),
      rows_(rows),
      teacher_(teacher),
      values_(Tensor::zeros(rank.host_memory(), DType::F64, {rows, teacher ? columns : columns_alone})) {}

void TokenRows::set(std::int64_t row, const TokenFigures& token) {
  core::check(row >= 0 && row < rows_, "token rows: row {} of {}", row, rows_);
  const std::array<double, columns> values = {1,        token.ce,        packed(token.top), token.teacher_ce,
                                              token.kl, token.agreement, token.sum_min,     packed(token.teacher_top)};
  const std::int64_t width = values_.shape()[1];
  std::copy_n(values.begin(), width, values_.mutable_host<double>() + row * width);
}

void TokenRows::gather() {
  rank_.comms().batch->sum(values_);
  rank_.pipeline().sum(values_);
}

std::optional<TokenFigures> TokenRows::operator[](std::int64_t row) const {
  const double* v = values_.host<double>() + row * values_.shape()[1];
  if (v[0] == 0) return std::nullopt;
  TokenFigures token;
  token.ce = v[1];
  token.top = unpacked(v[2]);
  if (!teacher_) return token;
  token.teacher_ce = v[3];
  token.kl = v[4];
  token.agreement = v[5];
  token.sum_min = v[6];
  token.teacher_top = unpacked(v[7]);
  return token;
}

std::vector<TokenFigures> token_figures(Rank& rank, const Tensor& targets, const Predictions& p,
                                        std::int64_t valid_vocabulary) {
  core::Tape off(core::Tape::Mode::Off);
  std::unique_ptr<core::TargetSource> running;
  if (!p.teachers.empty())
    running = core::target_source(p.teachers, targets, *rank.comms().tensor,
                                  {.vocabulary_offset = p.vocabulary_offset, .valid_vocabulary = valid_vocabulary});
  core::TargetSource* const teacher = running ? running.get() : p.source;
  core::LossAccumulator losses(rank.memory(), /*keeps_each=*/true);
  const Measuring objective;
  core::head_loss(off, core::constant(p.hidden), core::constant(p.head), targets, objective, teacher,
                  *rank.comms().tensor,
                  {.vocabulary_offset = p.vocabulary_offset, .valid_vocabulary = valid_vocabulary}, losses,
                  core::constant(p.head_bias));
  const std::vector<std::int32_t> wanted = core::host_values<std::int32_t>(targets);
  const std::vector<TopPrediction> tops = read_tops(objective.tops(), wanted);
  const std::vector<TopPrediction> teacher_tops = teacher && teacher->is_sparse()
                                                      ? read_tops(teacher->sparse(0, std::ssize(wanted)), wanted)
                                                      : read_tops(objective.teacher_tops(), wanted);
  std::vector<TokenFigures> figures;
  for (const core::TokenLoss& loss : losses.read().each) {
    TokenFigures& token = figures.emplace_back();
    static_cast<core::TokenLoss&>(token) = loss;
    token.top = tops[figures.size() - 1];
    if (teacher) token.teacher_top = teacher_tops[figures.size() - 1];
  }
  return figures;
}

}  // namespace limbeck::launch
