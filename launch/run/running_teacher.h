// The teacher that runs, as a run's config has it in memory, beside the student or on ranks of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/nn/student/vocabulary_rows.h"
#include "core/nn/transformer.h"
#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/run/mapped_layers.h"
#include "launch/run/model_source.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

struct RunningTeacher {
  std::unique_ptr<nn::VocabularyRows> tensors;  // what it was loaded from, which refers to the source
  std::unique_ptr<nn::Transformer> model;
  std::unique_ptr<MappedLayers> streamed;  // null where it fits into memory
  std::string fingerprint;                 // model_fingerprint of the source
};

/// Collective. With `vocabulary` rows of the source's embedding and head, in the order of `rows` where that is given;
/// those behind the tokenizer's tokens count for nothing. Warns where it is more than memory holds.
RunningTeacher load_teacher(Rank& rank, const RunConfig& config, const ModelSource& source, std::int64_t vocabulary,
                            const std::optional<nn::TokenRows>& rows, const Log& log);

}  // namespace limbeck::launch
