#include "launch/run/hidden_projectors.h"

#include <cmath>
#include <utility>

#include "launch/run/run_objective.h"

namespace limbeck::launch {

HiddenProjectors::HiddenProjectors(const Session& session)
    : HiddenProjectors({.memory = session.rank.memory(),
                        .dtype = session.config.precision.master,
                        .place = session.rank.sharded(session.config.precision.master).place},
                       session.config, session.student->config(), session.teacher_config, [&](std::int64_t layer) {
                         return session.pipeline.stage_of(layer) == session.rank.mesh().pp().rank();
                       }) {}

HiddenProjectors::HiddenProjectors(core::ParameterOptions options, const RunConfig& config,
                                   const nn::ModelConfig& student, const std::optional<nn::ModelConfig>& teacher,
                                   const std::function<bool(std::int64_t)>& is_here)
    : parameters_(std::move(options)) {
  const HiddenStatesConfig& asked = config.objective.hidden_states;
  if (!asked.projector || !teacher) return;
  const auto match = hidden_match(asked, student, *teacher, {});
  if (!match) return;
  const std::int64_t from = student.width, to = teacher->width;
  for (std::int64_t layer = 0; layer < student.num_layers; ++layer) {
    const bool is_matched = match->layers[static_cast<std::size_t>(layer)] >= 0 && is_here(layer);
    by_layer_.push_back(is_matched
                            ? &parameters_.add(fmt::format("distillation/hidden_states.{}.weight", layer), {to, from})
                            : nullptr);
    if (is_matched)
      core::init_normal(*by_layer_.back(), 1 / std::sqrt(static_cast<double>(from)), config.train.seed);
  }
}

core::StateDict HiddenProjectors::state_dict() {
  core::StateDict state;
  for (const core::Parameter* p : parameters()) state.emplace(p->name, p->entry(p->value));
  return state;
}

void HiddenProjectors::load(const core::StateReader& reader) {
  for (core::Parameter* p : parameters()) {
    core::StateEntry entry = p->entry(p->value);
    reader.read(p->name, entry);
  }
}

}  // namespace limbeck::launch
