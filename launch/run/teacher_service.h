// What ranks that hold a teacher alone do in a run (parallel.teacher_ranks): they answer the student's ranks until
// those dismiss them (teacher_ranks.h).
#pragma once

#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/run/rank.h"
#include "launch/run/teacher_loading.h"
#include "launch/run/teacher_ranks.h"

namespace limbeck::launch {

/// Answers with this teacher until it is dismissed. Collective over the teacher's ranks, of which `rank` is one.
void answer_with(Rank& rank, const TeacherRanks& ranks, const LoadedTeacher& teacher);

/// With that of the config, which the ranks read first.
void serve_teacher(Rank& rank, const RunConfig& config, const TeacherRanks& ranks, const Log& log);

}  // namespace limbeck::launch
