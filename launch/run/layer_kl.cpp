#include "launch/run/layer_kl.h"

#include <algorithm>

#include "core/ops/head_loss.h"
#include "core/ops/tensor_exchange.h"
#include "optim/objectives.h"

namespace limbeck::launch {

using core::Tensor;

LayerKl::LayerKl(Rank& rank, const nn::Transformer& teacher, std::span<const nn::Batch> batches,
                 std::int64_t valid_vocabulary)
    : rank_(rank), teacher_(teacher), batches_(batches), valid_vocabulary_(valid_vocabulary) {
  for (std::size_t b = 0; b < batches.size(); ++b) {
    targets_.push_back(core::host_values<std::int32_t>(batches[b].targets));
    core::Tape off(core::Tape::Mode::Off);
    const Tensor hidden = teacher.forward(off, teacher.pass(batches[b])).hidden.value;
    const nn::Var exact =
        core::leaf(hidden.to(core::sum_dtype(hidden.dtype())));  // a gradient of bfloat16 is too coarse
    core::Tape tape;
    Origin origin;
    origin.cross_entropy = cross_entropies(tape, b, core::enter(tape, exact, *rank.comms().tensor));
    origin.hidden = rows_of(b, hidden);
    origin.gradient = rows_of(b, core::gradient(exact.slot, exact.value));
    origins_.push_back(std::move(origin));
  }
}

std::vector<double> LayerKl::cross_entropies(core::Tape& tape, std::size_t batch, const nn::Var& hidden) const {
  const optim::LanguageModelling objective;
  core::LossAccumulator losses(rank_.memory(), /*keeps_each=*/true);
  const nn::Var loss =
      core::head_loss(tape, hidden, core::constant(teacher_.head().value), batches_[batch].targets, objective, nullptr,
                      *rank_.comms().tensor,
                      {.vocabulary_offset = teacher_.vocabulary_part().first, .valid_vocabulary = valid_vocabulary_},
                      losses, core::constant(teacher_.head_bias().value));
  if (loss.slot) tape.backward(loss);
  std::vector<double> each;
  for (const core::TokenLoss& token : losses.read().each) each.push_back(token.ce);
  return each;
}

std::vector<double> LayerKl::rows_of(std::size_t batch, const Tensor& values) const {
  const Tensor exact = values.to(core::sum_dtype(values.dtype()));
  const auto width = static_cast<std::size_t>(exact.shape()[1]);
  std::vector<double> rows;
  core::dispatch_float("layer KL", exact.dtype(), [&]<class T>() {
    const std::vector<T> all = core::host_values<T>(exact);
    for (std::size_t t = 0; t < targets_[batch].size(); ++t)
      if (targets_[batch][t] >= 0)
        rows.insert(rows.end(), all.begin() + static_cast<std::ptrdiff_t>(t * width),
                    all.begin() + static_cast<std::ptrdiff_t>((t + 1) * width));
  });
  return rows;
}

std::vector<double> LayerKl::operator()(std::size_t batch, const Tensor& hidden) const {
  core::Tape off(core::Tape::Mode::Off);
  std::vector<double> kl = cross_entropies(off, batch, core::constant(hidden));
  const Origin& origin = origins_.at(batch);
  const std::vector<double> rows = rows_of(batch, hidden);
  const std::size_t width = kl.empty() ? 0 : rows.size() / kl.size();
  for (std::size_t t = 0; t < kl.size(); ++t) {
    double along = 0;
    for (std::size_t i = t * width; i < (t + 1) * width; ++i)
      along += origin.gradient[i] * (rows[i] - origin.hidden[i]);
    kl[t] -= origin.cross_entropy[t] + along;
  }
  return kl;
}

}  // namespace limbeck::launch
