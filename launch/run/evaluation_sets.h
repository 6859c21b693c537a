// The evaluation sets of a run's config, as documents of the run's tokens.
//
//     for (const EvaluationSet& set : read_evaluation_sets(session, log)) ...
#pragma once

#include <string>
#include <vector>

#include "data/text/documents.h"
#include "launch/console/log.h"
#include "launch/run/session.h"

namespace limbeck::launch {

struct EvaluationSet {
  std::string name;
  std::vector<data::Document> documents;
};

/// Collective: every rank reads them, in the config's order. Throws, naming the set, where its text is not there or
/// empty.
std::vector<EvaluationSet> read_evaluation_sets(const Session& session, const Log& log);

}  // namespace limbeck::launch
