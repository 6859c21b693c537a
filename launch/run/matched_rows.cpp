#include "launch/run/matched_rows.h"

#include <utility>

#include "data/tokenizers/vocabulary.h"

namespace limbeck::launch {

std::optional<nn::TokenRows> matched_rows(const ModelSource& teacher, const data::Tokenizer& text,
                                          const std::string& what, const Log& log) {
  const data::Tokenizer* own = teacher.tokenizer.get();
  if (own == nullptr || own == &text) return std::nullopt;
  const auto difference = data::vocabulary_difference(text, *own);
  if (!difference) return std::nullopt;
  if (const auto cutting = data::cutting_difference(text, *own))
    core::fail_usage(
        "{}: {}; and tokens cannot be matched by their text: {}; objective.bridge learns from such a teacher", what,
        *difference, *cutting);
  data::VocabularyMatch match = data::match_vocabularies(text, *own, teacher.config.vocabulary);
  log->info("the teacher's tokens are matched by their text: {} of {} have another id", match.num_moved,
            text.vocabulary_size());
  if (!match.pieces.empty())
    log->warn("the teacher has no token {}{}: it reads the mean of its parts, and no probability is compared",
              data::shown_token(text, match.pieces.begin()->first),
              match.pieces.size() == 1 ? "" : fmt::format(" and {} more of the text's", match.pieces.size() - 1));
  return nn::TokenRows{.rows = std::move(match.ids), .pieces = std::move(match.pieces)};
}

void check_teacher_rows(const RunConfig& config, const std::optional<nn::TokenRows>& rows) {
  if (config.parallel.teacher_ranks > 0 && rows)
    core::fail_usage("parallel.teacher_ranks is {}, expected 0: data.tokenizer has other ids than {}",
                     config.parallel.teacher_ranks, config.teacher->source);
}

}  // namespace limbeck::launch
