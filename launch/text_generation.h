// A model's continuation of a prompt, as text.
#pragma once

#include <string>

#include "core/nn/generation.h"
#include "launch/session.h"

namespace limbeck::launch {

/// Collective: the continuation of the config's prompt, sampled as `generation` says; empty without a prompt. `is_cut`:
/// the model's experts are cut over the mesh, so that the ranks with the first data alone run the tokens.
std::string continue_prompt(const nn::Transformer& model, const Session& session, bool is_cut);

}  // namespace limbeck::launch
