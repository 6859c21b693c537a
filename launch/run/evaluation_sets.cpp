#include "launch/run/evaluation_sets.h"

#include "launch/run/same_everywhere.h"
#include "launch/run/text_evaluation.h"
#include "launch/run/threads.h"

namespace limbeck::launch {
namespace {

std::vector<data::Document> documents_of(const EvaluationSetConfig& set, const Session& session, const Log& log) {
  if (!set.tokens.empty()) {
    const data::TokenFile file(set.tokens);
    session.check_same_ids(file, log);
    return data::documents_of(file, session.tokenizer.get());
  }
  return data::read_documents(set.text, *session.tokenizer,
                              {.threads = threads_of_rank(session.config.train.threads),
                               .format = set.format,
                               .field = set.field,
                               .parse_special = set.parse_special});
}

}  // namespace

std::vector<EvaluationSet> read_evaluation_sets(const Session& session, const Log& log) {
  std::vector<EvaluationSet> sets;
  for (const EvaluationSetConfig& set : session.found.evaluation.set) {
    const std::string name = "evaluation set " + set.name;
    std::vector<data::Document> documents;
    while_others_hear(session.rank, [&] { data::of_file(name, [&] { documents = documents_of(set, session, log); }); });
    say_repaired(documents, name, log);
    check_same_everywhere(session.rank.world(),
                          fmt::format("fingerprint of {}: {:016x}\n", name, data::fingerprint(documents)));
    sets.push_back({.name = set.name, .documents = std::move(documents)});
  }
  return sets;
}

}  // namespace limbeck::launch
