// A model's continuation of a prompt, as text.
#pragma once

#include <string>

#include "core/nn/generation.h"
#include "launch/session.h"

namespace limbeck::launch {

/// Collective: the continuation of the config's prompt, sampled as `generation` says; empty without a prompt. `is_cut`:
/// the model is cut over the mesh, so that the first rank alone runs the tokens.
std::string continue_prompt(const nn::Transformer& model, const Session& session, bool is_cut);

/// Throws a UsageError where the prompt and max_tokens do not fit into the positions of a model; `whose` stands for it
/// in the message ("the student").
void check_fits(const GenerationConfig& config, const data::Tokenizer& tokenizer, const nn::ModelConfig& model,
                const char* whose);

}  // namespace limbeck::launch
