#include "launch/run/step.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>

#include "core/ops/add.h"
#include "core/slice.h"
#include "launch/run/expert_load.h"

namespace limbeck::launch {
namespace {

using core::DType;
using core::Tensor;
using core::Var;

/// The sum over the ranks of a group of values that each computed in double.
void sum_over(core::Comm& group, Rank& rank, std::span<double> values) {
  Tensor t = Tensor::from<double>(rank.memory(), {static_cast<std::int64_t>(values.size())}, values);
  group.all_reduce(t, core::Reduce::Sum);
  const std::vector<double> sums = core::host_values<double>(t);
  std::copy(sums.begin(), sums.end(), values.begin());
}

double scalar(const Var& v) { return v.value.defined() ? core::host_value(v.value) : 0; }

}  // namespace

StepResult forward_backward(Rank& rank, const StepModels& models, const StepText& samples, const StepOptions& options,
                            parallel::GradientSync& sync) {
  const std::int64_t ranks = rank.mesh().dp().size();
  const std::int64_t parts = ranks * options.micro_batches;
  core::check(samples.num_targets > 0,
              "step: none of the {} tokens has a target, expected documents of two tokens or more", samples.num_tokens);

  StepResult result;
  LoadCounter load(models.student.config());
  sync.begin_step();
  core::GradientLedger ledger(options.micro_batches, [&](core::Parameter& p) { sync.parameter_final(p); });
  for (std::int64_t micro = 0; micro < options.micro_batches; ++micro) {
    const auto [first, count] = core::slice_of(samples.num_sequences, micro * ranks + rank.mesh().dp().rank(), parts);
    const auto begin = std::chrono::steady_clock::now();
    nn::Batch batch = make_batch(rank.memory(), samples.fetch(first, count), 0, count, first);
    result.text_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    batch.global_targets = static_cast<double>(samples.num_targets);
    batch.global_sequences = static_cast<double>(samples.num_sequences);
    batch.global_tokens = static_cast<double>(samples.num_tokens);

    core::Tape tape;
    ledger.watch(tape);
    tape.delay_weight_parts(options.delay_weight_parts);
    nn::RoutingLog own;  // a recomputed layer replays its own choices
    nn::Pass pass = models.student.pass(batch);
    pass.router = options.router;
    pass.recompute = options.recompute;
    pass.routing = options.routing ? options.routing : options.recompute ? &own : nullptr;
    load.watch(pass);
    const nn::Transformer::Output out = models.student.forward(tape, pass);

    std::optional<core::OnlineTeacher> teacher;
    if (models.teacher) {
      core::Tape off(core::Tape::Mode::Off);
      const Tensor hidden = models.teacher->forward(off, models.teacher->pass(batch)).hidden.value;
      teacher.emplace(hidden, models.teacher->head().value);
    }
    const Var objective = core::head_loss(tape, out.hidden, models.student.head(), batch.targets, models.objective,
                                          teacher ? &*teacher : nullptr, *rank.comms().tensor,
                                          {.weight = 1 / batch.global_targets,
                                           .vocabulary_offset = models.student.vocabulary_part().first,
                                           .valid_vocabulary = options.valid_vocabulary},
                                          result.head);
    Var total = objective;
    for (const Var& term : {out.losses.balance, out.losses.z})
      if (term.value.defined()) total = core::add(tape, total, term);
    result.balance += scalar(out.losses.balance);
    result.z += scalar(out.losses.z);
    tape.backward(total);
    tape.run_weight_parts();
  }
  sync.finish();

  core::LossStatistics& head = result.head;
  const std::array<double*, 9> scalars = {&head.tokens,    &head.loss,    &head.ce,        &head.teacher_ce, &head.kl,
                                          &head.agreement, &head.sum_min, &result.balance, &result.z};
  std::vector<double> sums;
  for (const double* value : scalars) sums.push_back(*value);
  sum_over(rank.mesh().dp(), rank, sums);
  for (std::size_t i = 0; i < scalars.size(); ++i) *scalars[i] = sums[i];
  result.objective = head.loss;
  result.expert_load = load.sum_over(rank);
  return result;
}

}  // namespace limbeck::launch
