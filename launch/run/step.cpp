#include "launch/run/step.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <numeric>
#include <optional>

#include "core/nn/stream.h"
#include "core/ops/add.h"
#include "core/ops/linear.h"
#include "core/ops/match_routing.h"
#include "core/ops/preference.h"
#include "core/ops/reward.h"
#include "core/ops/router.h"
#include "core/ops/smoothed_labels.h"
#include "core/ops/spans.h"
#include "core/ops/sparse_targets.h"
#include "core/slice.h"
#include "kernels/distillation.h"
#include "kernels/elementwise.h"
#include "kernels/sorted_rows.h"
#include "launch/run/cut_sequences.h"

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

/// Whether weights' gradients are best left until rows are under way between GPUs. A CPU has nothing beside them.
bool has_exchanges_to_fill(const Rank& rank) {
  return rank.memory()->has_queue() && rank.mesh().experts_group()->size() > 1;
}

// Of a step's sums, behind those of its losses, and in front of those of the layers that predict, depth by depth.
constexpr std::int64_t balance_sum = kernels::num_loss_totals, z_sum = balance_sum + 1, hidden_sum = z_sum + 1,
                       hidden_square = hidden_sum + 1, routing_sum = hidden_square + 1, update_sums = routing_sum + 1,
                       update_squares = update_sums + std::int64_t{nn::num_blocks},
                       preference_sums = update_squares + std::int64_t{nn::num_blocks},
                       span_sums = preference_sums + kernels::num_preference_columns,
                       sorted_sums = span_sums + kernels::num_span_columns,
                       predict_sums = sorted_sums + kernels::num_sorted_columns;

/// The teacher's layer that a student's is held to; -1: none, as of layers that predict.
std::int64_t match_of(const std::vector<std::int64_t>& layers, std::int64_t layer) {
  return layer < std::ssize(layers) ? layers[static_cast<std::size_t>(layer)] : -1;
}

bool matches_updates(const StepOptions& options) {
  return std::ranges::any_of(options.updates, [](const auto& match) { return match.has_value(); });
}

/// What the teacher's layers give that a student is held to, by layer.
struct Taught {
  Tensor hidden;                                                       // behind the last norm
  std::map<std::int64_t, Tensor> layers;                               // hidden states
  std::array<std::map<std::int64_t, Tensor>, nn::num_blocks> updates;  // what is added to them, by nn::Block
  struct Routing {
    Tensor probabilities, weights;
  };
  std::map<std::int64_t, Routing> routing;

  /// Of a pass that is about to run.
  void watch(nn::Pass& pass, const StepOptions& options) {
    const auto is_asked = [](const std::vector<std::int64_t>& asked, std::int64_t layer) {
      return std::ranges::count(asked, layer) > 0;
    };
    if (options.hidden)
      pass.gives = [this, &options, is_asked](std::int64_t layer, const Var& given) {
        if (is_asked(options.hidden->layers, layer)) layers.emplace(layer, given.value);
      };
    if (matches_updates(options))
      pass.match_update = [this, &options, &pass, is_asked](core::Tape& tape, nn::Block block, std::int64_t layer,
                                                            const Var& update) -> Var {
        const auto at = static_cast<std::size_t>(block);
        if (!options.updates[at] || !is_asked(options.updates[at]->layers, layer)) return {};
        const Tensor whole = nn::whole_sequences(tape, pass, update).value;
        const DType wide = core::sum_dtype(whole.dtype());
        updates[at].emplace(layer, whole.dtype() == wide ? whole : whole.to(wide));
        return {};
      };
    if (options.routers)
      pass.match_routing = [this, &options, &pass, is_asked](core::Tape&, std::int64_t layer,
                                                             const core::Routing& routed) -> Var {
        if (!is_asked(options.routers->layers, layer)) return {};
        const Tensor& probabilities = routed.probabilities.value;
        routing[layer] = {
            probabilities,
            options.routers->by_load
                ? core::load_weights(routed.selection,
                                     pass.sequence_counts(routed.selection, probabilities.shape()[1], DType::F64),
                                     pass.batch.sequence)
                : Tensor()};
        return {};
      };
  }
};

/// Row i is row i + by of `rows`, zeros where there is none.
Tensor moved_up(const Tensor& rows, std::int64_t by) {
  const std::int64_t kept = std::max<std::int64_t>(rows.shape()[0] - by, 0);
  Tensor moved = Tensor::zeros(rows.memory(), rows.dtype(), rows.shape());
  if (kept > 0) moved.rows(0, kept).copy_from(rows.rows(by, kept));
  return moved;
}

/// Within each sequence row i is the one half of the sequence further on, beyond its end from its beginning again.
Tensor half_turned(const Tensor& rows, std::span<const std::int64_t> offsets) {
  Tensor turned = core::empty_like(rows);
  for (std::size_t n = 0; n + 1 < offsets.size(); ++n) {
    const std::int64_t first = offsets[n], length = offsets[n + 1] - first, half = length / 2;
    if (length > half) turned.rows(first, length - half).copy_from(rows.rows(first + half, length - half));
    if (half > 0) turned.rows(first + length - half, half).copy_from(rows.rows(first, half));
  }
  return turned;
}

core::SparseTargets moved_up(core::SparseTargets targets, std::int64_t by) {
  if (by == 0) return targets;
  for (Tensor* column : targets.columns())
    if (column->defined()) *column = moved_up(*column, by);
  return targets;
}

/// The sequences of the step that this rank reads in one of its passes.
core::Slice slice_of_pass(const Rank& rank, const StepText& samples, std::int64_t micro, std::int64_t micro_batches) {
  const std::int64_t ranks = rank.mesh().dp().size();
  return core::slice_of(samples.num_sequences, micro * ranks + rank.mesh().dp().rank(), ranks * micro_batches);
}

}  // namespace

std::vector<data::TokenBatch> batches_of(const Rank& rank, const StepText& samples, std::int64_t micro_batches) {
  std::vector<data::TokenBatch> batches;
  for (std::int64_t micro = 0; micro < micro_batches; ++micro) {
    const auto [first, count] = slice_of_pass(rank, samples, micro, micro_batches);
    batches.push_back(cut_of(samples.fetch(first, count), rank.context_place()));
  }
  return batches;
}

StepInput read_input(const core::MemoryPtr& memory, const Rank& rank, const StepText& samples,
                     std::int64_t micro_batches, const StepModels& models) {
  core::check(
      samples.num_targets > 0,
      "step: none of the {} tokens has a target, expected documents of two tokens or more, of conversations more "
      "sequences a step, so that each has part of a reply",
      samples.num_tokens);
  const auto begin = std::chrono::steady_clock::now();
  const bool has_parts = models.cached != nullptr && !models.cached->is_whole();
  StepInput input;
  const double per_target = 1 / static_cast<double>(samples.num_pairs > 0 ? samples.num_pairs : samples.num_targets);
  input.per_target = Tensor::from<double>(memory, {1}, {&per_target, 1});
  for (std::int64_t micro = 0; micro < micro_batches; ++micro) {
    const auto [first, count] = slice_of_pass(rank, samples, micro, micro_batches);
    const data::TokenBatch whole = samples.fetch(first, count);
    data::TokenBatch mine = cut_of(whole, rank.context_place());
    if (has_parts) input.taught.push_back(models.cached->take(memory, mine));
    if (models.remote != nullptr) input.answers.push_back(models.remote->take(mine));
    if (models.bridge != nullptr) input.bridged.push_back(models.bridge->read(memory, mine));
    if (models.others != nullptr) input.shares.push_back(models.others->shares_of(memory, mine, 0, count));
    nn::Batch& batch = input.batches.emplace_back(
        make_batch(memory, whole, 0, count, first, models.student.num_predictors(), rank.context_place()));
    if (models.cached != nullptr && !has_parts) input.texts.push_back(std::move(mine));
    batch.global_sequences = static_cast<double>(samples.num_sequences);
    batch.global_tokens = static_cast<double>(samples.num_tokens);
  }
  input.text_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return input;
}

QueuedPasses queue_passes(Rank& rank, const StepModels& models, const StepInput& input, const StepOptions& options,
                          parallel::GradientSync& sync) {
  const std::int64_t depths = models.student.num_predictors();
  core::check(options.preference_beta == 0 || (models.teacher != nullptr && depths == 0),
              "step: of preferences, with {} and {} layers that predict further tokens, expected a reference and none",
              models.teacher != nullptr ? "a reference" : "no reference", depths);
  core::check(options.reward.has_value() == models.student.config().reward_head,
              "step: of a model {} a reward head, {}, expected both or neither",
              models.student.config().reward_head ? "with" : "without",
              options.reward ? "by rewards" : "not by rewards");
  std::vector<core::LossAccumulator> losses;  // of the model, and of each depth behind it
  for (std::int64_t k = 0; k <= depths; ++k) losses.emplace_back(rank.memory());
  Tensor sums = Tensor::zeros(rank.memory(), DType::F64, {predict_sums + depths * kernels::num_loss_totals});
  Tensor of_preferences = Tensor::zeros(rank.memory(), DType::F64, {kernels::num_preference_columns});
  Tensor of_spans = Tensor::zeros(rank.memory(), DType::F64, {kernels::num_span_columns});
  const Tensor of_pairs = Tensor::zeros(rank.memory(), DType::F64, {kernels::num_sorted_columns});
  const Bridge bridge = models.bridge != nullptr ? options.bridge : Bridge::None;
  LoadCounter load(models.student.config(), depths > 0);
  sync.begin_step();
  const auto final_of = [&](std::int64_t num_tapes) {
    return core::GradientLedger(num_tapes, [&](core::Parameter& p) { sync.parameter_final(p); });
  };
  core::GradientLedger ledger = final_of(sync.sums_each_pass() ? 1 : std::ssize(input.batches));
  for (std::size_t micro = 0; micro < input.batches.size(); ++micro) {
    if (micro > 0 && sync.sums_each_pass()) {
      sync.next_pass();
      ledger = final_of(1);
    }
    const nn::Batch& batch = input.batches[micro];
    core::Tape tape;
    ledger.watch(tape);
    tape.delay_weight_parts(options.delay_weight_parts || has_exchanges_to_fill(rank));
    nn::RoutingLog own;  // a recomputed layer replays its own choices
    nn::Pass pass = models.student.pass(batch);
    pass.router = options.router;
    pass.recompute = options.recompute;
    pass.routing = options.routing ? options.routing : options.recompute ? &own : nullptr;
    load.watch(pass);

    const auto read_whole = [&](std::int64_t further) {
      return models.cached->whole(rank.memory(), input.texts[micro], further, models.student.vocabulary_part().first,
                                  models.student.head().value.shape()[0]);
    };
    std::unique_ptr<core::TargetSource> cached_rows;  // on their way while the student runs
    if (!input.texts.empty()) cached_rows = read_whole(0);
    Taught taught;
    const bool is_smoothed = options.control.kind == Control::SmoothedLabels;
    const TokenShares* const shares = models.others != nullptr ? &input.shares[micro] : nullptr;
    const bool is_matched = options.hidden || options.routers || matches_updates(options);
    std::vector<core::TeacherOutput> outputs;  // by those that teach any of the batch
    if (models.teacher && !is_smoothed && (shares == nullptr || is_matched || models.others->runs(*shares, 0))) {
      core::Tape off(core::Tape::Mode::Off);
      nn::Pass teaching = models.teacher->pass(batch);
      taught.watch(teaching, options);
      if (models.streamed != nullptr) models.streamed->watch(teaching);
      if (options.watch.pass) options.watch.pass(teaching, *models.teacher);
      taught.hidden = models.teacher->forward(off, teaching).hidden.value;
      if (options.control.kind == Control::ShuffledPositions)
        taught.hidden = half_turned(taught.hidden, batch.offsets_on_host);
      if (shares == nullptr || shares->teaches[0])
        outputs.push_back({taught.hidden, models.teacher->head().value, models.teacher->head_bias().value,
                           shares == nullptr ? Tensor() : shares->values[0]});
    }
    if (shares != nullptr) models.others->give(batch, *shares, outputs);
    if (!input.answers.empty()) {
      taught.hidden = input.answers[micro].hidden;
      taught.layers = input.answers[micro].layers;
      outputs.push_back({taught.hidden, models.remote->head(), models.remote->head_bias()});
    }
    Tensor bridged_losses;  // of the teacher's own tokens
    std::unique_ptr<core::TargetSource> paired;
    if (models.bridge != nullptr) {
      const BridgedBatch& read = input.bridged[micro];
      const Tensor hidden = models.bridge->hidden(read.batch, models.streamed);
      if (bridge == Bridge::Spans)
        bridged_losses = models.bridge->losses(rank, read.batch, hidden);
      else
        paired = std::make_unique<core::PairedTeacher>(models.bridge->pairs(
            read, hidden, batch.num_tokens(),
            core::PairedLogits::Vocabulary::of(models.student.config().vocabulary, options.valid_vocabulary),
            of_pairs));
    }
    // What a token's distance in a layer is times, and where the squares of gradients go.
    const auto share_of = [&](const auto& match, std::optional<std::int64_t> square) {
      return core::MatchOptions{.weight = match.weight / static_cast<double>(match.num_matched()),
                                .scale = input.per_target,
                                .squares = square ? sums.rows(*square, 1) : Tensor()};
    };
    if (!input.taught.empty()) taught.layers = input.taught[micro].hidden;
    Var distance;  // of the student's hidden states from those
    if (options.hidden && (models.teacher || models.remote || !input.taught.empty()))
      pass.gives = [&](std::int64_t layer, const Var& given) {
        const std::int64_t of_teacher = match_of(options.hidden->layers, layer);
        if (of_teacher < 0) return;
        Var whole = nn::whole_sequences(tape, pass, given);
        if (!options.hidden->projectors.empty())
          whole =
              core::linear(tape, whole, core::as_var(*options.hidden->projectors.at(static_cast<std::size_t>(layer))));
        nn::add_term(tape, distance,
                     core::match_rows(tape, whole, taught.layers.at(of_teacher), batch.targets,
                                      options.hidden->distance, share_of(*options.hidden, hidden_square)));
      };
    if (models.teacher && matches_updates(options))
      pass.match_update = [&](core::Tape& on, nn::Block block, std::int64_t layer, const Var& update) -> Var {
        const auto at = static_cast<std::size_t>(block);
        const std::optional<HiddenMatch>& match = options.updates[at];
        const std::int64_t of_teacher = match ? match_of(match->layers, layer) : -1;
        if (of_teacher < 0) return {};
        return core::match_rows(on, nn::whole_sequences(on, pass, update), taught.updates[at].at(of_teacher),
                                batch.targets, match->distance,
                                share_of(*match, update_squares + static_cast<std::int64_t>(at)));
      };
    if (models.teacher && options.routers)
      pass.match_routing = [&](core::Tape& on, std::int64_t layer, const core::Routing& routed) -> Var {
        const std::int64_t of_teacher = match_of(options.routers->layers, layer);
        if (of_teacher < 0) return {};
        const Taught::Routing& theirs = taught.routing.at(of_teacher);
        return core::match_routing(on, routed.probabilities, theirs.probabilities, batch.targets, theirs.weights,
                                   share_of(*options.routers, std::nullopt));
      };
    if (options.watch.pass) options.watch.pass(pass, models.student);
    const nn::Transformer::Output out = models.student.forward(tape, pass);
    // Of the model, or of a depth, whose tokens are so many further on.
    const auto loss_of = [&](const Var& hidden, const Tensor& targets, std::int64_t further, double weight) {
      core::HeadOptions head{.weight = weight,
                             .scale = input.per_target,
                             .vocabulary_offset = models.student.vocabulary_part().first,
                             .valid_vocabulary = options.valid_vocabulary};
      const auto run = [&](core::Tape& on, core::TargetSource* teacher, core::LossAccumulator& sums_of_losses) {
        return core::head_loss(on, hidden, models.student.head(), targets, models.objective, teacher,
                               *rank.comms().tensor, head, sums_of_losses, models.student.head_bias());
      };
      std::unique_ptr<core::TargetSource> teacher;
      if (further == 0 && paired != nullptr)
        teacher = std::move(paired);
      else if (!input.taught.empty())
        teacher = std::make_unique<core::SparseTeacher>(moved_up(input.taught[micro].targets, further));
      else if (!input.texts.empty())
        teacher = further > 0 ? read_whole(further) : std::move(cached_rows);
      else if (models.teacher && is_smoothed)
        teacher = std::make_unique<core::SmoothedLabels>(
            targets, options.control.smoothing,
            options.valid_vocabulary < 0 ? models.student.config().vocabulary : options.valid_vocabulary,
            models.student.head().shape()[0], models.student.vocabulary_part().first,
            core::sum_dtype(hidden.value.dtype()));
      else if (!outputs.empty()) {
        std::vector<core::TeacherOutput> of_tokens = outputs;
        if (further > 0)
          for (core::TeacherOutput& output : of_tokens) output.hidden = moved_up(output.hidden, further);
        teacher = core::target_source(std::move(of_tokens), targets, *rank.comms().tensor,
                                      {.temperature = options.temperature,
                                       .vocabulary_offset = head.vocabulary_offset,
                                       .valid_vocabulary = options.valid_vocabulary});
      }
      const bool is_bridged = bridge == Bridge::Spans && further == 0;
      if (options.preference_beta == 0 && !is_bridged)
        return run(tape, teacher.get(), losses[static_cast<std::size_t>(further)]);
      // First what the models hold of each response or span, then the gradient with what follows from that.
      core::Tape off(core::Tape::Mode::Off);
      core::LossAccumulator said(rank.memory(), /*keeps_each=*/true), unused(rank.memory());
      if (is_bridged) head.weight = options.bridge_ce_weight;
      run(off, teacher.get(), said);
      head.weight = weight;
      head.row_weights = is_bridged ? core::span_weights(said.each(), bridged_losses, input.bridged[micro].spans,
                                                         options.bridge_ce_weight, of_spans)
                                    : core::preference_weights(said.each(), batch.document, batch.sequence_offsets,
                                                               options.preference_beta, of_preferences);
      losses[0].add(said);
      return run(tape, nullptr, unused);
    };
    Var total =
        options.reward
            ? core::reward_loss(tape, out.hidden, models.student.reward_head(), batch.document, batch.sequence_offsets,
                                {.center = options.reward->center, .scale = input.per_target}, of_preferences)
            : loss_of(out.hidden, batch.targets, 0, 1);
    if (distance.value.defined()) total = core::add(tape, total, distance);
    add_scalar(distance, sums, hidden_sum);
    const auto add_layers = [&](const nn::AuxiliaryLosses& terms) {
      const auto add_layer_term = [&](const Var& term, std::int64_t sum) {
        nn::add_term(tape, total, term);
        add_scalar(term, sums, sum);
      };
      add_layer_term(terms.balance, balance_sum);
      add_layer_term(terms.z, z_sum);
      add_layer_term(terms.routing, routing_sum);
      for (std::size_t block = 0; block < nn::num_blocks; ++block)
        add_layer_term(terms.updates[block], update_sums + static_cast<std::int64_t>(block));
    };
    add_layers(out.losses);
    Var stream = out.stream;
    for (std::int64_t k = 0; k < depths; ++k) {
      const auto& [tokens, targets] = batch.ahead.at(static_cast<std::size_t>(k));
      const nn::Transformer::Output further = models.student.predict(tape, pass, k, stream, tokens);
      total = core::add(tape, total,
                        loss_of(further.hidden, targets, k + 1, options.predict_weight / static_cast<double>(depths)));
      add_layers(further.losses);
      stream = further.stream;
    }
    tape.backward(total);
    tape.run_weight_parts();
  }
  sync.finish();
  if (options.watch.gradients) options.watch.gradients();

  sums.rows(0, kernels::num_loss_totals).copy_from(losses[0].totals());
  sums.rows(preference_sums, kernels::num_preference_columns).copy_from(of_preferences);
  sums.rows(span_sums, kernels::num_span_columns).copy_from(of_spans);
  sums.rows(sorted_sums, kernels::num_sorted_columns).copy_from(of_pairs);
  for (std::int64_t k = 0; k < depths; ++k)
    sums.rows(predict_sums + k * kernels::num_loss_totals, kernels::num_loss_totals)
        .copy_from(losses[static_cast<std::size_t>(k + 1)].totals());
  rank.mesh().data().all_reduce(sums, core::Reduce::Sum);
  return {sums, load.start_sum_over(rank), bridge, options.bridge_ce_weight};
}

double StepResult::predict_loss() const {
  double sum = 0;
  for (const core::LossStatistics& depth : predict) sum += depth.loss;
  return sum;
}

double StepResult::loss() const {
  return objective + predict_loss() + hidden + std::accumulate(updates.begin(), updates.end(), routing) + balance + z;
}

void QueuedPasses::start_reading() {
  copy_.emplace(sums_);
  load_.start_reading();
}

StepResult QueuedPasses::read() {
  if (!copy_) start_reading();
  const std::span<const double> sums = copy_->get<double>();
  StepResult result;
  result.head = core::LossStatistics(sums);
  result.objective = result.head.loss;
  result.balance = sums[balance_sum];
  result.z = sums[z_sum];
  result.hidden = sums[hidden_sum];
  if (const auto pairs = sums.subspan(preference_sums, kernels::num_preference_columns);
      pairs[kernels::PreferencePairs] > 0) {
    result.preference.emplace(pairs);
    result.objective = result.preference->loss;
  }
  if (bridge_ == Bridge::Spans) {
    const auto spans = sums.subspan(span_sums, kernels::num_span_columns);
    result.spans.emplace(spans, result.head.tokens);
    result.objective += (1 - bridge_ce_weight_) * spans[kernels::SpanLoss] / result.head.tokens;
  }
  if (bridge_ == Bridge::Uld) {
    const auto pairs = sums.subspan(sorted_sums, kernels::num_sorted_columns);
    result.sorted.emplace(pairs, result.head.tokens);
    result.objective += (1 - bridge_ce_weight_) * pairs[kernels::SortedDistance] / result.head.tokens;
  }
  result.hidden_square = sums[hidden_square];
  std::ranges::copy(sums.subspan(update_sums, nn::num_blocks), result.updates.begin());
  std::ranges::copy(sums.subspan(update_squares, nn::num_blocks), result.update_squares.begin());
  result.routing = sums[routing_sum];
  for (std::size_t at = predict_sums; at < sums.size(); at += kernels::num_loss_totals)
    result.predict.emplace_back(sums.subspan(at, kernels::num_loss_totals));
  result.expert_load = load_.read();
  return result;
}

StepResult forward_backward(Rank& rank, const StepModels& models, const StepText& samples, const StepOptions& options,
                            parallel::GradientSync& sync) {
  const StepInput input = read_input(rank.memory(), rank, samples, options.micro_batches, models);
  return queue_passes(rank, models, input, options, sync).read();
}

}  // namespace limbeck::launch
