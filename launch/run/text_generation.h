// A model's continuation of a prompt, as text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/generation.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/config/config.h"
#include "launch/run/rank.h"
#include "launch/run/run_facts.h"

namespace limbeck::launch {

/// The ids of a prompt, names of special tokens in it taken as such, behind the start of a text where the tokenizer has
/// one.
std::vector<std::int32_t> prompt_ids(const data::Tokenizer& tokenizer, const std::string& prompt);

struct Continued {
  std::string text = {};
  std::optional<WorkFigures> decode = {};  // known to the first rank; nothing of no token behind the first
};

/// Collective: the continuation of the config's prompt; empty without one. `is_cut`: the model's experts are cut over
/// the mesh, so that the ranks with the first data alone run the tokens.
Continued continue_prompt(const nn::Transformer& model, const Rank& rank, const GenerationConfig& config,
                          const data::Tokenizer& tokenizer, bool is_cut);

/// Collective: what is known of it goes into the run directory's start.json, as the member `name`.
void keep_decode(Rank& rank, const std::filesystem::path& run, const char* name,
                 const std::optional<WorkFigures>& decode);

/// Throws a UsageError where the prompt and max_tokens do not fit into the positions of a model; `whose` stands for it
/// in the message ("the student").
void check_fits(const GenerationConfig& config, const data::Tokenizer& tokenizer, const nn::ModelConfig& model,
                const char* whose);

}  // namespace limbeck::launch
