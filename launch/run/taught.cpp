#include "launch/run/taught.h"

#include <algorithm>
#include <optional>

#include "core/exchanges_of.h"
#include "core/nn/stream.h"
#include "core/ops/match_routing.h"
#include "core/ops/router.h"

namespace limbeck::launch {
namespace {

using core::DType;
using core::Tensor;
using core::Var;

bool matches_updates(const StepOptions& options) {
  return std::ranges::any_of(options.updates, [](const auto& match) { return match.has_value(); });
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

}  // namespace

// Micro-batch by micro-batch all forward passes, through the chunks and stages, then all backward ones, the other way.
void StepContext::watch_finite(core::Tape& tape, const char* pass, std::size_t micro, std::int64_t chunk,
                               bool is_backward) const {
  core::FiniteWatch* const watch = options.watch.finite;
  if (watch == nullptr) return;
  const std::int64_t stages = rank.pipeline().size(), parts = stages * models.student.num_chunks(),
                     part = chunk * stages + rank.pipeline().rank(), batches = std::ssize(input.batches),
                     at = is_backward ? 2 * parts - 1 - part : part;
  watch->begin(fmt::format("{} of micro-batch {}", pass, micro),
               ((is_backward ? batches : 0) + static_cast<std::int64_t>(micro)) * 2 * parts + at);
  tape.set_watch(watch);
}

void Taught::watch(nn::Pass& pass, const StepOptions& options) {
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

bool matches_layers(const StepOptions& options) {
  return options.hidden || options.routers || matches_updates(options);
}

std::int64_t match_of(const std::vector<std::int64_t>& layers, std::int64_t layer) {
  return layer < std::ssize(layers) ? layers[static_cast<std::size_t>(layer)] : -1;
}

Taught teach(const StepContext& step, std::size_t micro) {
  const StepModels& models = step.models;
  const StepOptions& options = step.options;
  const nn::Batch& batch = step.input.batches.at(micro);
  Taught taught;
  const TokenShares* const shares = models.others != nullptr ? &step.input.shares[micro] : nullptr;
  if (models.teacher && !is_smoothed(options) &&
      (shares == nullptr || matches_layers(options) || models.others->runs(*shares, 0))) {
    const core::ExchangesOf scope(core::of_teacher(core::ExchangesOf::now()));
    core::Tape off(core::Tape::Mode::Off);
    nn::Pass teaching = models.teacher->pass(batch);
    teaching.expert_chunks = options.expert_chunks;
    teaching.tensor_chunks = options.tensor_chunks;
    taught.watch(teaching, options);
    if (models.streamed != nullptr) models.streamed->watch(teaching);
    if (options.watch.pass) options.watch.pass(teaching, *models.teacher);
    step.watch_finite(off, "the teacher's pass", micro, models.student.num_chunks() - 1, /*is_backward=*/false);
    Tensor hidden = models.teacher->forward(off, teaching).hidden.value;
    if (options.control.kind == Control::ShuffledPositions) hidden = half_turned(hidden, batch.offsets_on_host);
    if (shares == nullptr || shares->teaches[0])
      taught.outputs.push_back({hidden, models.teacher->head().value, models.teacher->head_bias().value,
                                shares == nullptr ? Tensor() : shares->values[0]});
  }
  if (shares != nullptr) models.others->give(batch, *shares, taught.outputs);
  if (!step.input.answers.empty()) {
    const RemoteTeacher::Answer& answer = step.input.answers[micro];
    taught.layers = answer.layers;
    taught.outputs.push_back({answer.hidden, answer.head, answer.head_bias});
  }
  if (!step.input.taught.empty()) taught.layers = step.input.taught[micro].hidden;
  return taught;
}

}  // namespace limbeck::launch
