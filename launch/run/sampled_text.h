// The text of a step as a model says it: from the begin of each of its sequences the student goes on (on-policy
// distillation, Agarwal et al. 2024, "On-policy distillation of language models", GKD), or the teacher (sequence-level
// distillation, Kim & Rush 2016).
//
//     if (is_sampled_step(config, step)) samples = StepText(sample_text(session, samples, step).samples);
#pragma once

#include "launch/run/batch.h"
#include "launch/run/session.h"

namespace limbeck::launch {

/// Whether a step, counted from 1, reads such text: drawn by the run's seed and the step alone.
bool is_sampled_step(const RunConfig& config, std::int64_t step);

struct SampledText {
  data::TokenBatch samples;
  std::int64_t num_sampled = 0;  // tokens that the model chose, ends of texts among them
};

/// Collective: the sequences of a step, the same on every rank. Each begins with the last document of the sequence's
/// first objective.sampled_text.prompt_tokens, has as targets what the model says behind it, until it ends the text,
/// and is filled up by what stands in the text behind the prompt, without targets.
SampledText sample_text(Session& session, const StepText& samples, std::int64_t step);

}  // namespace limbeck::launch
