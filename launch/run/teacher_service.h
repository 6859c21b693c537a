// What ranks that hold a teacher alone do in a run (parallel.teacher_ranks): they answer the student's ranks until
// those dismiss them (teacher_ranks.h).
#pragma once

#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/run/rank.h"
#include "launch/run/teacher_loading.h"
#include "launch/run/teacher_ranks.h"

namespace limbeck::launch {

/// What this rank has of a teacher that is kept as `options` say: of several stages its own layers, which are dealt by
/// what they cost; the head costs nothing, for the student's ranks have it. `sequence_length`: of the text. Collective
/// over the ranks that have the teacher.
nn::ModelOptions on_stage(const Rank& rank, nn::ModelOptions options, const nn::ModelConfig& teacher,
                          std::int64_t sequence_length);

/// Answers with this teacher until it is dismissed. Collective over the teacher's ranks, of which `rank` is one. Of
/// several stages none begins more than twice as many questions before another as there are stages.
void answer_with(Rank& rank, const TeacherRanks& ranks, const LoadedTeacher& teacher);

/// With that of the config, which the ranks read first.
void serve_teacher(Rank& rank, const RunConfig& config, const TeacherRanks& ranks, const Log& log);

}  // namespace limbeck::launch
