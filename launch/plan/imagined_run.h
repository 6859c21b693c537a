// What a rank of a run takes, before there is one: the run's own steps are made, by one rank of a world that is not
// there (parallel/imagined), in a memory of sizes alone (core/device/memory.h). So what is planned is what the code
// does; nothing of it is written down a second time.
//
//     const RankPlan plan = plan_rank(config, models, {.num_ranks = 64});
//     plan.memory.peak();
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/device/memory.h"
#include "launch/plan/imagined_teacher.h"
#include "launch/plan/planned_models.h"
#include "launch/run/memory_parts.h"
#include "launch/run/pipeline.h"
#include "parallel/comm/counted_comm.h"

namespace limbeck::launch {

struct RankPlan {
  int rank = 0;  // of the student's
  MemoryParts memory;
  std::vector<parallel::ExchangeCount> traffic;  // of a step, what this rank sends, but for teacher_apart
  std::vector<parallel::ExchangeCount> waited;   // of that, for tables at the model's ends, which passes wait for
  std::int64_t given_bytes = 0;       // of a step, likewise, to all of its tensors: what is written of them at the least
  std::int64_t parameter_bytes = 0;   // of the student on this rank, as passes read them
  std::int64_t gradient_bytes = 0;    // of what is trained of it, before any is dealt
  std::int64_t optimizer_values = 0;  // that it steps on
  std::int64_t optimizer_host = 0;    // of memory.host, bytes that a step reads and writes
  std::int64_t teacher_bytes = 0;     // of memory.teacher, of the one that steps run
  std::int64_t teacher_host = 0;      // of memory.host, that each of its passes copies
  double optimizer_flops = 0;         // of Muon's products
  std::int64_t trainable = 0;         // values of the student, or its adapters, on all ranks
  std::int64_t num_tokens = 0;        // of a step, that this rank's passes read, whoever else reads them too
  Pipeline pipeline = {};             // of its layout; of one stage where it has no pp
  int stage = 0;                      // of it, that the rank is on
  std::optional<TeacherPlan> teacher_apart = {};  // in a layout of its own, on this rank or on one of its own

  bool is_of_stages() const { return pipeline.schedule.num_stages() > 1; }
  /// From the system, of a rank of the student's or of a teacher's that has ranks of its own, whichever takes more.
  std::int64_t most_held() const {
    return teacher_apart ? std::max(memory.held, teacher_apart->memory.held) : memory.held;
  }
};

/// Of the last rank, of a pipeline that of the stage which takes most memory, be it the student's or that of a teacher
/// over the same ranks. The last has the largest of parts that are not even: what the others have at most, but where
/// experts get more than it (`expert_shares`). Throws a UsageError as the run would where the layout does not fit.
RankPlan plan_rank(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world);

/// The same, with what there is in `teachers`, which are of these models and this world.
RankPlan plan_rank(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                   TeacherPlans& teachers);

/// The same without what a teacher takes on ranks of its own, as the next two are.
RankPlan plan_student(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world);

/// Of the last rank of one stage of its pipeline, or of the one stage that there is without.
RankPlan plan_stage(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world, int stage);

/// What the last rank has before its first step, of which it keeps all: parameters, the teacher, gradients and the
/// optimizer's state, without what steps add. That is soon told, however many passes and layers there are.
MemoryParts plan_state(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world);

/// Throws a UsageError as the run would, on whichever stage, before its first step.
void check_begins(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world);

/// The pipeline by which the run would go, of one stage where its layout has no pp. Throws a UsageError where it would
/// refuse.
Pipeline planned_pipeline(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world);

/// Collective: seconds of each of so many steps of a config without a teacher, made for good, behind those that make
/// what later ones find, of random weights on random tokens, in a memory that is there.
std::vector<double> seconds_of_steps(const RunConfig& config, const PlannedModels& models,
                                     const std::shared_ptr<parallel::WorldComm>& world, const core::MemoryPtr& memory,
                                     int num_steps);

}  // namespace limbeck::launch
