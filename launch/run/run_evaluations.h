// All that a run is measured on: its held-out sample and the evaluation sets of its config, before, at the steps that
// are due, and after.
//
//     RunEvaluations evaluations(session, log);                        // reads the sets
//     Measurement before = evaluations.measure(*session.student);
//     if (evaluations.is_due(step)) line.update(to_json(evaluations.measure(*session.student, step)));
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/text/document_hashes.h"
#include "launch/console/log.h"
#include "launch/run/evaluation.h"
#include "launch/run/session.h"
#include "launch/run/text_evaluation.h"

namespace limbeck::launch {

class RunEvaluations {
 public:
  /// Collective: as read_evaluation_sets. With teacher.cache figures against the teacher are of what that has; a set
  /// that is not wholly in it is said, and measured against the teacher, which is loaded, or without one.
  RunEvaluations(Session& session, const Log& log);

  /// Null where the held-out documents do not fill a sequence.
  HeldOut* held_out() { return held_out_ ? &*held_out_ : nullptr; }
  bool is_empty() const { return !held_out_ && sets_.empty(); }
  /// Tokens that are predicted in measure().
  std::int64_t num_tokens() const;
  /// The documents of the sets that the run learns from, a line for each set that has some.
  std::vector<std::string> found_in_training_text(const data::DocumentHashes& known) const;

  /// Whether a set is measured against the teacher itself, where there is one.
  bool asks_teacher() const;
  /// What is known of the teacher where a figure is measured; nothing without one.
  std::optional<Known> teacher_of(const std::string& figure) const;

  /// Whether a figure's set (figure.h) is among what is measured.
  bool has_set_of(const std::string& figure) const;
  /// Whether a figure is measured after a step also where the run does not end there.
  bool is_regular(const std::string& figure, std::int64_t step) const;
  bool is_due(std::int64_t step) const;
  /// Whether everything is due, so that measure(model, step) is measure(model).
  bool is_all_due(std::int64_t step) const;
  /// Collective: everything; or what is due after a step.
  Measurement measure(const nn::Transformer& model, std::optional<std::int64_t> step = std::nullopt);

 private:
  struct Set {
    std::string name;
    std::int64_t every_steps;
    TextEvaluation text;
    std::unique_ptr<CachedTeacher> cached;  // of its documents; null without a cache that has them all
  };
  void find_in_cache(Set& set, const Log& log);
  bool is_held_out_due(std::int64_t step) const;

  Session& session_;
  std::optional<HeldOut> held_out_;
  std::vector<Set> sets_;
};

/// For a log, a line for the held-out sample and for each set:
/// "web: kl 0.3021, top-1 0.712, ce 2.0151, perplexity 7.5015, bits/byte 1.2011".
std::vector<std::string> to_lines(const Measurement& measurement);

}  // namespace limbeck::launch
