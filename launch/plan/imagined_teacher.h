// What a teacher in a layout of its own takes (parallel.teacher_layout, parallel.teacher_ranks), before there is a run:
// by what runs it there, RelaidTeacher and TeacherService, as imagined_run.h has it of the student.
//
//     ImaginedRelaid relaid(rank, *comm, config, models, world);         // over the student's ranks
//     relaid.take();
//     const TeacherPlan plan = relaid.plan(text);
//
//     const TeacherPlan plan = plan_teacher_ranks(config, models, world);    // on ranks of its own
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "launch/plan/planned_models.h"
#include "launch/run/memory_parts.h"
#include "launch/run/rank.h"
#include "launch/run/relaid_teacher.h"
#include "parallel/comm/counted_comm.h"

namespace limbeck::launch {

/// On a rank that has a part of it.
struct TeacherPlan {
  std::string layout;
  int num_ranks = 1;                                  // that it is cut over
  MemoryParts memory = {};                            // of a rank that has it alone; else the student's has it
  std::int64_t bytes = 0;                             // of its weights in the rank's memory,
  std::int64_t host = 0;                              // and in the host's, which each of its passes copies
  std::int64_t passes = 0;                            // of a step,
  std::int64_t num_tokens = 0;                        // which read so many on this rank, whoever else reads them too,
  std::int64_t given_bytes = 0;                       // and give so much to all of its tensors
  std::vector<parallel::ExchangeCount> traffic = {};  // of a step, what this rank sends for it
  int num_stages = 1;
  double share = 1;  // of its layers, the most that a stage has
};

inline bool has_teacher_ranks(const RunConfig& config, const PlannedModels& models) {
  return models.teacher && config.parallel.teacher_ranks > 0;
}
inline bool has_relaid_teacher(const RunConfig& config, const PlannedModels& models) {
  return models.teacher && config.parallel.teacher_ranks == 0 && !config.parallel.teacher_layout.empty();
}

/// The student's, over so many ranks, and the teacher's that has ranks of its own.
std::string layout_of_student(const RunConfig& config, int num_ranks);
std::string layout_of_teacher(const RunConfig& config);

/// Collective over all ranks of both sides: the groups that such a rank makes before its first step, and nothing else.
void make_imagined_groups(const std::shared_ptr<parallel::WorldComm>& comm, const RunConfig& config,
                          const PlannedModels& models, const PlannedWorld& world);

/// What the teacher gives.
RemoteTeacher::Form form_of_imagined(const RunConfig& config, const PlannedModels& models);
/// Its layers that the student's are held to.
std::vector<std::int64_t> asked_layers(const RunConfig& config, const PlannedModels& models);

/// A rank of the student's in the mesh of a teacher over the same ranks.
class ImaginedRelaid {
 public:
  /// Collective over `all`, the ranks that `rank` is one of. All that is referred to outlives this.
  ImaginedRelaid(const Rank& rank, parallel::WorldComm& all, const RunConfig& config, const PlannedModels& models,
                 const PlannedWorld& world);

  RelaidTeacher& teacher() { return teacher_; }
  /// Makes the model; the bytes of it that lie in the host's memory.
  std::int64_t take();
  /// Reads a step's text once.
  TeacherPlan plan(const StepText& text);

 private:
  const RunConfig& config_;
  const PlannedModels& models_;
  const PlannedWorld& world_;
  std::shared_ptr<parallel::TrafficLog> traffic_;
  Rank side_;
  RelaidTeacher teacher_;
  TeacherPlan plan_;
};

/// Of the last rank of the replica that reads most of a step; with precision.sharded_teacher of the last of all too,
/// which has most of the experts; of several stages of each. The memory is that of the one which takes most, and of
/// what its passes read and give the most of each. What is sent is that of the replica's first rank on the last stage,
/// which answers where not all along tp do.
TeacherPlan plan_teacher_ranks(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world);

/// Plans of a teacher on ranks of its own, each made once: what the student shares, computes again or deals its experts
/// over changes nothing there.
class TeacherPlans {
 public:
  /// Both outlive this.
  TeacherPlans(const PlannedModels& models, const PlannedWorld& world) : models_(models), world_(world) {}

  /// plan_teacher_ranks; null where no teacher has ranks of its own. Of one config but for what divides the student's
  /// steps (layout_search.h).
  const TeacherPlan* of(const RunConfig& config);

 private:
  const PlannedModels& models_;
  const PlannedWorld& world_;
  std::map<std::array<std::int64_t, 4>, TeacherPlan> plans_;  // by the student's pp, cp and tp, and micro-batches
};

}  // namespace limbeck::launch
