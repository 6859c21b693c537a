// The best evaluation of a run by one figure: which step it was, and how many have been no better since.
//
//     std::optional<BestEvaluation> best;
//     if (offer(best, "web.ce", step, measurement)) save();       // the best until now
//     if (best && best->without_gain >= limit) end();
//     nlohmann::json state = to_json(*best);                      // in the checkpoint: a resumed run goes on from it
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "launch/run/evaluation.h"

namespace limbeck::launch {

struct BestEvaluation {
  std::string figure;  // as figure.h names it
  std::int64_t step = 0;
  double value = 0;
  std::int64_t without_gain = 0;  // evaluations since that were no better
  friend bool operator==(const BestEvaluation&, const BestEvaluation&) = default;
};

nlohmann::json to_json(const BestEvaluation& best);
/// Throws, naming `where` and the field, where it is not what to_json gives.
BestEvaluation best_from_json(const nlohmann::json& json, const std::string& where);

/// The figure of a measurement; nothing where it was not measured.
std::optional<double> figure_of(const Measurement& measurement, const std::string& figure);

/// Takes an evaluation of `figure` after a step into account: true where it is the best. One in which the figure was
/// not measured counts for nothing; nor does one without gain unless it is `regular`, every so many steps: a run that
/// goes on after its end counts as if it had not ended there.
bool offer(std::optional<BestEvaluation>& best, const std::string& figure, std::int64_t step,
           const Measurement& measurement, bool regular = true);

}  // namespace limbeck::launch
