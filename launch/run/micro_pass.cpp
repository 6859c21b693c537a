#include "launch/run/micro_pass.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "core/exchanges_of.h"
#include "core/nn/stream.h"
#include "core/ops/add.h"
#include "core/ops/linear.h"
#include "core/ops/match_routing.h"
#include "core/ops/preference.h"
#include "core/ops/reward.h"
#include "core/ops/smoothed_labels.h"
#include "core/ops/spans.h"
#include "core/ops/sparse_targets.h"
#include "kernels/distillation.h"
#include "kernels/elementwise.h"
#include "kernels/sorted_rows.h"

namespace limbeck::launch {
namespace {

using core::DType;
using core::Tensor;
using core::Var;

/// sums[index] += value [1], if there is one.
void add_scalar(const Var& value, Tensor& sums, std::int64_t index) {
  if (!value.value.defined()) return;
  const Tensor wide = value.value.to(DType::F64);
  core::on_device(wide, [&](const auto& device) {
    kernels::add_to(device, wide.data<double>(), sums.mutable_data<double>() + index, 1);
  });
}

/// Row i is row i + by of `rows`, zeros where there is none.
Tensor moved_up(const Tensor& rows, std::int64_t by) {
  const std::int64_t kept = std::max<std::int64_t>(rows.shape()[0] - by, 0);
  Tensor moved = Tensor::zeros(rows.memory(), rows.dtype(), rows.shape());
  if (kept > 0) moved.rows(0, kept).copy_from(rows.rows(by, kept));
  return moved;
}

core::SparseTargets moved_up(core::SparseTargets targets, std::int64_t by) {
  if (by == 0) return targets;
  for (Tensor* column : targets.columns())
    if (column->defined()) *column = moved_up(*column, by);
  return targets;
}

Tensor zeros(const Rank& rank, std::int64_t count) { return Tensor::zeros(rank.memory(), DType::F64, {count}); }

}  // namespace

StepSums::StepSums(const Rank& rank, const nn::Transformer& student)
    : all(zeros(rank, of_predictions + student.num_depths() * kernels::num_loss_totals)),
      preferences(zeros(rank, kernels::num_preference_columns)),
      spans(zeros(rank, kernels::num_span_columns)),
      pairs(zeros(rank, kernels::num_sorted_columns)),
      load(student.config(), student.num_depths() > 0) {
  for (std::int64_t k = 0; k <= student.num_depths(); ++k) losses.emplace_back(rank.memory());
}

void StepSums::gather(const Rank& rank) {
  all.rows(0, kernels::num_loss_totals).copy_from(losses[0].totals());
  all.rows(of_preferences, kernels::num_preference_columns).copy_from(preferences);
  all.rows(of_spans, kernels::num_span_columns).copy_from(spans);
  all.rows(of_pairs, kernels::num_sorted_columns).copy_from(pairs);
  for (std::size_t k = 1; k < losses.size(); ++k)
    all.rows(of_predictions + static_cast<std::int64_t>(k - 1) * kernels::num_loss_totals, kernels::num_loss_totals)
        .copy_from(losses[k].totals());
  const core::ExchangesOf scope("losses of the step");
  rank.mesh().data().all_reduce(all, core::Reduce::Sum);
  rank.pipeline().sum(all);
}

MicroPass::MicroPass(const StepContext& step, std::int64_t micro_batch, std::int64_t chunk,
                     core::GradientLedger& ledger)
    : step_(step),
      micro_(static_cast<std::size_t>(micro_batch)),
      chunk_(chunk),
      pass_(step.models.student.pass(step.input.batches.at(micro_))) {
  const StepOptions& options = step_.options;
  ledger.watch(tape_);
  tape_.set_weight_parts(step_.weight_parts);
  pass_.router = options.router;
  pass_.replicated = options.replicated;
  pass_.expert_chunks = options.expert_chunks;
  pass_.tensor_chunks = options.tensor_chunks;
  pass_.recompute = options.recompute;
  pass_.routing = options.routing ? options.routing : options.recompute ? &own_routing_ : nullptr;
  pass_.balance_square = step_.sums.all.rows(StepSums::balance_square, 1);
  pass_.z_square = step_.sums.all.rows(StepSums::z_square, 1);
  step_.sums.load.watch(pass_);
}

bool MicroPass::is_first() const { return chunk_ == 0 && step_.rank.pipeline().rank() == 0; }
bool MicroPass::is_last() const {
  return step_.models.student.has_head() && chunk_ + 1 == step_.models.student.num_chunks();
}

std::unique_ptr<core::TargetSource> MicroPass::read_whole(std::int64_t further) const {
  const nn::Transformer& student = step_.models.student;
  return step_.models.cached->whole(step_.rank.memory(), step_.input.texts[micro_], further,
                                    student.vocabulary_part().first, student.head().value.shape()[0]);
}

void MicroPass::run_bridge() {
  const StepModels& models = step_.models;
  const BridgedBatch& read = step_.input.bridged[micro_];
  const Tensor hidden = models.bridge->hidden(read.batch, models.streamed);
  if (bridge() == Bridge::Spans)
    bridged_losses_ = models.bridge->losses(step_.rank, read.batch, hidden);
  else
    paired_ = std::make_unique<core::PairedTeacher>(models.bridge->pairs(
        read, hidden, batch().num_tokens(),
        core::PairedLogits::Vocabulary::of(models.student.config().vocabulary, step_.options.valid_vocabulary),
        step_.sums.pairs));
}

void MicroPass::watch_matches() {
  const StepOptions& options = step_.options;
  // What a token's distance in a layer is times, and where the squares of gradients go.
  const auto share_of = [this](const auto& match, std::int64_t square) {
    return core::MatchOptions{.weight = match.weight / static_cast<double>(match.num_matched()),
                              .scale = step_.input.per_target,
                              .squares = step_.sums.all.rows(square, 1)};
  };
  if (options.hidden)
    pass_.gives = [this, share_of](std::int64_t layer, const Var& given) {
      const HiddenMatch& match = *step_.options.hidden;
      const std::int64_t of_teacher = match_of(match.layers, layer);
      if (of_teacher < 0) return;
      Var whole = nn::whole_sequences(tape_, pass_, given);
      if (!match.projectors.empty())
        whole = core::linear(tape_, whole, core::as_var(*match.projectors.at(static_cast<std::size_t>(layer))));
      nn::add_term(tape_, distance_,
                   core::match_rows(tape_, whole, taught_->layers.at(of_teacher), batch().targets, match.distance,
                                    share_of(match, StepSums::hidden_square)));
    };
  if (std::ranges::any_of(options.updates, [](const auto& match) { return match.has_value(); }))
    pass_.match_update = [this, share_of](core::Tape& on, nn::Block block, std::int64_t layer,
                                          const Var& update) -> Var {
      const auto at = static_cast<std::size_t>(block);
      const std::optional<HiddenMatch>& match = step_.options.updates[at];
      const std::int64_t of_teacher = match ? match_of(match->layers, layer) : -1;
      if (of_teacher < 0) return {};
      return core::match_rows(on, nn::whole_sequences(on, pass_, update), taught_->updates[at].at(of_teacher),
                              batch().targets, match->distance,
                              share_of(*match, StepSums::update_squares + static_cast<std::int64_t>(at)));
    };
  if (options.routers)
    pass_.match_routing = [this, share_of](core::Tape& on, std::int64_t layer, const core::Routing& routed) -> Var {
      const RouterMatch& match = *step_.options.routers;
      const std::int64_t of_teacher = match_of(match.layers, layer);
      if (of_teacher < 0) return {};
      const Taught::Routing& theirs = taught_->routing.at(of_teacher);
      return core::match_routing(on, routed.probabilities, theirs.probabilities, batch().targets, theirs.weights,
                                 share_of(match, StepSums::routing_square));
    };
}

std::unique_ptr<core::TargetSource> MicroPass::targets_of(const Tensor& targets, std::int64_t further,
                                                          const core::HeadOptions& head) {
  const nn::Transformer& student = step_.models.student;
  const StepOptions& options = step_.options;
  if (further == 0 && paired_ != nullptr) return std::move(paired_);
  if (!step_.input.taught.empty())
    return std::make_unique<core::SparseTeacher>(moved_up(step_.input.taught[micro_].targets, further));
  if (!step_.input.texts.empty()) return further > 0 ? read_whole(further) : std::move(cached_rows_);
  if (step_.models.teacher && is_smoothed(options))
    return std::make_unique<core::SmoothedLabels>(
        targets, options.control.smoothing,
        options.valid_vocabulary < 0 ? student.config().vocabulary : options.valid_vocabulary,
        student.head().shape()[0], student.vocabulary_part().first, core::sum_dtype(out_.value.dtype()));
  if (!taught_ || taught_->outputs.empty()) return nullptr;
  std::vector<core::TeacherOutput> of_tokens = taught_->outputs;
  if (further > 0)
    for (core::TeacherOutput& output : of_tokens) output.hidden = moved_up(output.hidden, further);
  return core::target_source(std::move(of_tokens), targets, *step_.rank.comms().tensor,
                             {.temperature = options.temperature,
                              .vocabulary_offset = head.vocabulary_offset,
                              .valid_vocabulary = options.valid_vocabulary});
}

Var MicroPass::loss_of(const Var& hidden, const Tensor& targets, std::int64_t further, double weight) {
  const StepModels& models = step_.models;
  const StepOptions& options = step_.options;
  core::HeadOptions head{.weight = weight,
                         .scale = step_.input.per_target,
                         .vocabulary_offset = models.student.vocabulary_part().first,
                         .valid_vocabulary = options.valid_vocabulary};
  const auto run = [&](core::Tape& on, core::TargetSource* teacher, core::LossAccumulator& sums_of_losses) {
    return core::head_loss(on, hidden, models.student.head(), targets, models.objective, teacher,
                           *step_.rank.comms().tensor, head, sums_of_losses, models.student.head_bias());
  };
  const std::unique_ptr<core::TargetSource> teacher = targets_of(targets, further, head);
  const nn::WholeEnd whole = models.student.whole_head();
  const bool is_bridged = bridge() == Bridge::Spans && further == 0;
  if (options.preference_beta == 0 && !is_bridged)
    return run(tape_, teacher.get(), step_.sums.losses[static_cast<std::size_t>(further)]);
  // First what the models hold of each response or span, then the gradient with what follows from that.
  core::Tape off(core::Tape::Mode::Off);
  core::LossAccumulator said(step_.rank.memory(), /*keeps_each=*/true), unused(step_.rank.memory());
  if (is_bridged) head.weight = options.bridge_ce_weight;
  run(off, teacher.get(), said);
  head.weight = weight;
  head.row_weights = is_bridged ? core::span_weights(said.each(), bridged_losses_, step_.input.bridged[micro_].spans,
                                                     options.bridge_ce_weight, step_.sums.spans)
                                : core::preference_weights(said.each(), batch().document, batch().sequence_offsets,
                                                           options.preference_beta, step_.sums.preferences);
  step_.sums.losses[0].add(said);
  return run(tape_, nullptr, unused);
}

Var MicroPass::loss_of_head(const Var& hidden) {
  if (!step_.options.reward) return loss_of(hidden, batch().targets, 0, 1);
  return core::reward_loss(
      tape_, hidden, step_.models.student.reward_head(), batch().document, batch().sequence_offsets,
      {.center = step_.options.reward->center, .scale = step_.input.per_target}, step_.sums.preferences);
}

void MicroPass::add_layers(const nn::AuxiliaryLosses& terms) {
  const auto add_layer_term = [&](const Var& term, std::int64_t sum) {
    nn::add_term(tape_, total_, term);
    add_scalar(term, step_.sums.all, sum);
  };
  add_layer_term(terms.balance, StepSums::balance);
  add_layer_term(terms.z, StepSums::z);
  add_layer_term(terms.routing, StepSums::routing);
  for (std::size_t block = 0; block < nn::num_blocks; ++block)
    add_layer_term(terms.updates[block], StepSums::updates + static_cast<std::int64_t>(block));
}

void MicroPass::add_predictions(const Var& behind) {
  const nn::Transformer& student = step_.models.student;
  const std::int64_t depths = student.num_predictors();
  Var stream = behind;
  for (std::int64_t k = 0; k < depths; ++k) {
    const auto& [tokens, targets] = batch().ahead.at(static_cast<std::size_t>(k));
    const nn::Transformer::Output further = student.predict(tape_, pass_, k, stream, tokens);
    total_ =
        core::add(tape_, total_,
                  loss_of(further.hidden, targets, k + 1, step_.options.predict_weight / static_cast<double>(depths)));
    add_layers(further.losses);
    stream = further.stream;
  }
}

Tensor MicroPass::forward(const Tensor& stream) {
  if (is_last()) {
    if (!step_.input.texts.empty()) cached_rows_ = read_whole(0);
    if (step_.models.bridge != nullptr) run_bridge();
    if (!taught_) taught_ = teach(step_, micro_);
  }
  if (taught_) watch_matches();
  if (step_.options.watch.pass) step_.options.watch.pass(pass_, step_.models.student);
  step_.watch_finite(tape_, "the forward pass", micro_, chunk_, /*is_backward=*/false);
  if (!is_first()) in_ = core::leaf(stream);
  const nn::Transformer::Output out =
      step_.models.student.forward_chunk(tape_, pass_, chunk_, is_first() ? nullptr : &in_);
  out_ = out.hidden;
  if (is_last()) total_ = loss_of_head(out_);
  nn::add_term(tape_, total_, distance_);
  add_scalar(distance_, step_.sums.all, StepSums::hidden);
  add_layers(out.losses);
  if (!is_last()) return out_.value;
  add_predictions(out.stream);
  return {};
}

Tensor MicroPass::backward(const Tensor& gradient) {
  step_.watch_finite(tape_, "the backward pass", micro_, chunk_, /*is_backward=*/true);
  if (!is_last()) core::accumulate(out_.slot, gradient);
  if (is_last() || total_.slot)
    tape_.backward(total_);
  else
    tape_.run();
  out_ = total_ = {};  // what is left may wait long for its weights
  taught_.reset();
  const Var in = std::exchange(in_, {});
  return is_first() ? Tensor() : core::gradient(in.slot, in.value);
}

bool MicroPass::run_next_weight_part() {
  // Others' passes may have run since.
  step_.watch_finite(tape_, "the backward pass", micro_, chunk_, /*is_backward=*/true);
  return tape_.run_next_weight_part();
}

}  // namespace limbeck::launch
