// What is said before a run makes its models where they, or its steps, will not fit into memory: where that ends, the
// system ends a rank and says nothing.
//
//     Session session(rank, config, log, [&](const auto& of, const auto& student, const auto* teacher) {
//       warn_of_memory(of, student, teacher, log);
//     });
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "launch/plan/imagined_run.h"
#include "launch/run/session.h"

namespace limbeck::launch {

/// About the most bytes that a rank has before its first step, without a world: master, gradient and two moments of
/// each value, by the ranks that share all of them (tp, experts' ranks too; all of a stage with Shard::Parameters), and
/// the teacher, twice where evaluation sets ask another than steps do. Throws a UsageError where the layout is none.
std::int64_t state_bound(const RunConfig& config, const PlannedModels& models, int num_ranks);

/// About what the micro-batches in flight keep of a rank's layers, bytes: what these make forward of their tokens, with
/// train.recompute what they read, of as many as the schedule of the stages has under way at once, on the stage where
/// that is most. Head and teacher are beside it. Throws a UsageError as a run would.
std::int64_t passes_bound(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world);

/// One line where a rank is planned to take more than `may_take` bytes at a step's peak, copies of what is saved beside
/// steps left out: where these have no room, steps wait. Of a pipeline it names the stage, what that keeps, and the
/// settings by which it keeps less. Nothing is planned where state_bound and passes_bound are a twentieth of these
/// bytes at most; then its steps are. Nothing of a config that is not planned (planned_models.h), and of one that a run
/// refuses.
std::optional<std::string> memory_warning(const RunConfig& config, const PlannedModels& models,
                                          const PlannedWorld& world, std::int64_t may_take);

/// Collective: warns by what is available (part_of_memory_here) on the machine that has least for each of its ranks,
/// and what earlier runs have left free in their memory. The models are as Session::BeforeModels has them.
void warn_of_memory(const Session& session, const nn::ModelConfig& student, const nn::ModelConfig* teacher,
                    const Log& log);

}  // namespace limbeck::launch
