// What the forms of `limbeck eval` that need no run have in common: models and their tokenizer.
//
//     const LoadedModel model = load_model(rank, options.model, std::nullopt, log);
//     const auto tokenizer = tokenizer_of(options, model.source);
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>

#include "core/nn/student/vocabulary_rows.h"
#include "core/nn/transformer.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/commands/command_line.h"
#include "launch/console/log.h"
#include "launch/run/model_source.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// A model of the command, and what is loaded of it.
struct LoadedModel {
  ModelSource source;
  std::unique_ptr<nn::Transformer> model;
};

/// Collective: a frozen copy, with `vocabulary` rows of embedding and head, so that logits stand beside logits;
/// nothing: its own.
LoadedModel load_model(Rank& rank, const std::filesystem::path& path, std::optional<std::int64_t> vocabulary,
                       const Log& log);
/// The same of what is open already; `rows`: by launch/run/matched_rows.h.
LoadedModel load_model(Rank& rank, ModelSource source, std::optional<std::int64_t> vocabulary, const Log& log,
                       const std::optional<nn::TokenRows>& rows = std::nullopt);

/// The model's own, or that of --tokenizer, whose ids have to be the model's; null where there is none.
std::shared_ptr<const data::Tokenizer> tokenizer_of(const EvalOptions& options, const ModelSource& source);

/// Warns where it is not known whether a model's ids are those of the text; throws a UsageError, naming `option`, where
/// they are not.
void check_same_ids(const ModelSource& other, const data::Tokenizer* tokenizer, const char* option, const Log& log);

/// Tokens from here on are padding.
std::int64_t valid_vocabulary(const ModelSource& source, const data::Tokenizer* tokenizer);

}  // namespace limbeck::launch
