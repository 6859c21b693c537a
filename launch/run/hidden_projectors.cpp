#include "launch/run/hidden_projectors.h"

#include <cmath>

#include "launch/run/run_objective.h"

namespace limbeck::launch {

HiddenProjectors::HiddenProjectors(const Session& session)
    : parameters_({.memory = session.rank.memory(),
                   .dtype = session.config.precision.master,
                   .place = session.rank.sharded(session.config.precision.master).place}) {
  const HiddenStatesConfig& config = session.config.objective.hidden_states;
  if (!config.projector || !session.teacher_config) return;
  const nn::ModelConfig& student = session.student->config();
  const auto match = hidden_match(config, student, *session.teacher_config, {});
  if (!match) return;
  const std::int64_t from = student.width, to = session.teacher_config->width;
  for (std::int64_t layer = 0; layer < student.num_layers; ++layer) {
    const bool is_matched = match->layers[static_cast<std::size_t>(layer)] >= 0 &&
                            session.pipeline.stage_of(layer) == session.rank.mesh().pp().rank();
    by_layer_.push_back(is_matched
                            ? &parameters_.add(fmt::format("distillation/hidden_states.{}.weight", layer), {to, from})
                            : nullptr);
    if (is_matched)
      core::init_normal(*by_layer_.back(), 1 / std::sqrt(static_cast<double>(from)), session.config.train.seed);
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
