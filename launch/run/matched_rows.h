// A teacher whose ids are not those of a text, but whose tokens are: its rows of embedding and head in the order of the
// text's tokens. All else then sees one vocabulary.
//
//     const auto rows = matched_rows(teacher, *tokenizer, "data.tokenizer is another tokenizer than the teacher's",
//     log); model.load(nn::VocabularyRows(*teacher.reader, vocabulary, rows));
#pragma once

#include <optional>
#include <string>

#include "core/nn/student/vocabulary_rows.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/run/model_source.h"

namespace limbeck::launch {

/// Nothing where the ids are the same, or the teacher has no tokenizer that is read. Says what has other ids and what
/// the teacher lacks; throws a UsageError that begins with `what` where the two do not cut text alike.
std::optional<nn::TokenRows> matched_rows(const ModelSource& teacher, const data::Tokenizer& text,
                                          const std::string& what, const Log& log);

/// Throws a UsageError where a teacher that the config gives ranks of its own, which read the ids that they are asked,
/// has these rows.
void check_teacher_rows(const RunConfig& config, const std::optional<nn::TokenRows>& rows);

}  // namespace limbeck::launch
