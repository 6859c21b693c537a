// The models of a run that is planned: what its config, and the files that it names, say of them.
//
//     const PlannedModels models = planned_models(config, log);
//     models.student.num_layers;
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "core/device/memory.h"
#include "core/nn/model_config.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/plan/expert_shares.h"

namespace limbeck::launch {

struct PlannedModels {
  nn::ModelConfig student;
  std::optional<nn::ModelConfig> teacher = {};  // that runs, with as many rows of the vocabulary as the student,
  std::int64_t teacher_vocabulary = 0;          // and on ranks of its own with so many; 0: as many
  std::int64_t tokens = 0;                      // of the tokenizer
  std::shared_ptr<const data::Tokenizer> tokenizer = {};
};

/// What the models are on.
struct PlannedWorld {
  int num_ranks = 1;  // that have the student
  core::ImaginedDevice device = {};
  int ranks_a_node = 0;  // 0: all are on one
  ExpertShares expert_shares = {};
};

/// Whether a step runs it: smoothed labels stand in its place where objective.control says so, and it is there then to
/// be measured by.
inline bool teacher_runs(const RunConfig& config, const PlannedModels& models) {
  return models.teacher && config.objective.control != Control::SmoothedLabels;
}

/// Whether it runs among the student's passes, on its ranks and by its layout.
inline bool teacher_runs_beside(const RunConfig& config, const PlannedModels& models) {
  return teacher_runs(config, models) && config.parallel.teacher_ranks == 0 && config.parallel.teacher_layout.empty();
}

/// The ranks of both sides.
inline int num_planned_ranks(const RunConfig& config, const PlannedWorld& world) {
  return world.num_ranks + static_cast<int>(config.parallel.teacher_ranks);
}

/// Of so many ranks in all those that have the student. Throws a UsageError where parallel.teacher_ranks leave none.
int num_students(const RunConfig& config, int num_ranks);

/// The field of a config that is not planned; null where all of it is.
const char* not_planned(const RunConfig& config);

/// Reads what describes the models and the tokenizer, no weights and no text. Throws a UsageError where the config has
/// something that is not planned: several teachers, a bridge to one of other tokens, projectors to one that is cached,
/// fewer tokens; that error begins with `who` asks. And as a run does where they cannot read its text.
PlannedModels planned_models(const RunConfig& config, const Log& log, const char* who = "plan");

}  // namespace limbeck::launch
