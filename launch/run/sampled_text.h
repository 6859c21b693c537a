// The text of a step as a model says it: from the begin of each of its sequences the student goes on (on-policy
// distillation, Agarwal et al. 2024, "On-policy distillation of language models", GKD), or the teacher (sequence-level
// distillation, Kim & Rush 2016). Each rank with other data says a share of the texts, together; those of several steps
// may be said at once (objective.sampled_text.steps_at_once), before the first of them.
//
//     SampledTexts texts(session);
//     if (is_sampled_step(config, step)) samples = StepText(texts.of(step, text_of_next).samples);
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "data/files/json_at.h"
#include "launch/run/batch.h"
#include "launch/run/session.h"

namespace limbeck::launch {

/// Whether a step, counted from 1, reads such text: drawn by the run's seed and the step alone.
bool is_sampled_step(const RunConfig& config, std::int64_t step);

struct SampledText {
  data::TokenBatch samples;
  std::int64_t num_sampled = 0;  // tokens that the model chose, ends of texts among them
};

/// What a model said behind a prompt.
struct SaidText {
  std::vector<std::int32_t> tokens = {};
  std::int32_t stop_token = -1;  // that ended it; -1: none
  friend bool operator==(const SaidText&, const SaidText&) = default;
};

/// Of steps that are to come, by step, of each of their sequences.
using SaidAhead = std::map<std::int64_t, std::vector<SaidText>>;
nlohmann::json to_json(const SaidAhead& said);
SaidAhead said_ahead_from_json(const data::JsonAt& json);

class SampledTexts {
 public:
  explicit SampledTexts(Session& session) : session_(session) {}

  /// Collective: the sequences of a step for which is_sampled_step is true, the same on every rank. Each begins with
  /// the last document of the sequence's first objective.sampled_text.prompt_tokens, has as targets what the model says
  /// behind it, until it ends the text, and is filled up by what stands in the text behind the prompt, without targets.
  /// `text_of` gives the text of the step that is so many behind this one.
  SampledText of(std::int64_t step, const std::function<StepText(std::int64_t further)>& text_of);

  /// What has been said for steps behind the last one. A run that goes on has to go on with it.
  const SaidAhead& ahead() const { return ahead_; }
  void go_on_with(SaidAhead ahead) { ahead_ = std::move(ahead); }

 private:
  void say(std::int64_t step, const std::function<StepText(std::int64_t further)>& text_of);

  Session& session_;
  SaidAhead ahead_;
};

}  // namespace limbeck::launch
