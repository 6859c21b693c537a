// What a run says at its start of what it trains, and by whom.
//
//     say_what_runs(log, session);      // once its models, tokenizer and text are there
#pragma once

#include <optional>

#include "launch/console/log.h"
#include "launch/run/session.h"

namespace limbeck::launch {

/// What the model that is trained is called: only where a teacher is there, it is a student.
const char* trained_name(const Session& session);

/// The teacher's architecture, or the reference's, where one is named; nothing of a cache alone.
std::optional<nn::ModelConfig> named_teacher(const Session& session);

/// Sizes of the models, layers that predict, stages and the text; and what of the config changes nothing, or cannot be
/// written in other formats.
void say_what_runs(const Log& log, const Session& session);

}  // namespace limbeck::launch
