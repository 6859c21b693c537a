// The models of a run that is planned: what its config, and the files that it names, say of them.
//
//     const PlannedModels models = planned_models(config, log);
//     models.student.num_layers;
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "core/nn/model_config.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/config/config.h"
#include "launch/console/log.h"

namespace limbeck::launch {

struct PlannedModels {
  nn::ModelConfig student;
  std::optional<nn::ModelConfig> teacher = {};  // that runs beside it
  std::int64_t tokens = 0;                      // of the tokenizer
  std::shared_ptr<const data::Tokenizer> tokenizer = {};
};

/// Whether a step runs it: smoothed labels stand in its place where objective.control says so, and it is there then to
/// be measured by.
inline bool teacher_runs(const RunConfig& config, const PlannedModels& models) {
  return models.teacher && config.objective.control != Control::SmoothedLabels;
}

/// The field of a config that is not planned; null where all of it is.
const char* not_planned(const RunConfig& config);

/// Reads what describes the models and the tokenizer, no weights and no text. Throws a UsageError where the config has
/// something that is not planned: several teachers, a bridge to one of other tokens, ranks or a layout of its own,
/// projectors to one that is cached, fewer tokens; that error begins with `who` asks. And as a run does where they
/// cannot read its text.
PlannedModels planned_models(const RunConfig& config, const Log& log, const char* who = "plan");

}  // namespace limbeck::launch
