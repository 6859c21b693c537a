// What imagined ranks (imagined_run.h) have in the place of a run's files and choices: text of random tokens, a teacher
// without weights, experts whose tokens are known.
//
//     nn::Transformer teacher(*models.teacher, among_ranks(rank, options, config, models, world.expert_shares));
#pragma once

#include <cstdint>
#include <memory>

#include "core/nn/transformer.h"
#include "launch/plan/expert_shares.h"
#include "launch/plan/planned_models.h"
#include "launch/run/batch.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// A step's sequences, of one document each, of any of the tokenizer's tokens.
StepText imagined_text(const RunConfig& config, std::int64_t num_tokens);

/// Options of a model on this rank, with experts whose choices are known. What is referred to outlives the model.
nn::ModelOptions among_ranks(const Rank& rank, nn::ModelOptions options, const RunConfig& config,
                             const PlannedModels& models, const ExpertShares& shares);

/// The teacher with such options (teacher_options): its matrices that stay as a file keeps them, or as blocks of a
/// quantised format (data/models/quantised_reader.h), take what they take there.
std::unique_ptr<nn::Transformer> imagined_teacher(const Rank& rank, const nn::ModelOptions& options,
                                                  const RunConfig& config, const PlannedModels& models,
                                                  const ExpertShares& shares);

}  // namespace limbeck::launch
