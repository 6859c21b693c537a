#include "launch/commands/eval_models.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/run/checkpointing.h"

namespace limbeck::launch {

using core::fail_usage;

LoadedModel load_model(Rank& rank, const std::filesystem::path& path, std::optional<std::int64_t> vocabulary,
                       const Log& log) {
  return load_model(rank, open_model_together(rank, path, log), vocabulary, log);
}

LoadedModel load_model(Rank& rank, ModelSource source, std::optional<std::int64_t> vocabulary, const Log& log,
                       const std::optional<nn::TokenRows>& rows) {
  LoadedModel loaded{.source = std::move(source), .model = nullptr};
  for (const auto& notice : loaded.source.notices) log->warn("{}", notice);
  nn::ModelConfig config = loaded.source.config;
  config.vocabulary = vocabulary.value_or(config.vocabulary);
  if (rows && rows->lacks_any()) config.head_bias = true;
  loaded.model = std::make_unique<nn::Transformer>(config, rank.frozen_as_kept());
  while_others_hear(rank,
                    [&] { loaded.model->load(nn::VocabularyRows(*loaded.source.reader, config.vocabulary, rows)); });
  return loaded;
}

std::shared_ptr<const data::Tokenizer> tokenizer_of(const EvalOptions& options, const ModelSource& source) {
  if (options.tokenizer.empty()) return source.tokenizer;
  auto tokenizer = open_tokenizer(options.tokenizer);
  if (tokenizer->vocabulary_size() > source.config.vocabulary)
    fail_usage("--tokenizer: {} has {} tokens, expected at most the vocabulary of {}, {}", options.tokenizer,
               tokenizer->vocabulary_size(), source.path.string(), source.config.vocabulary);
  if (source.tokenizer == nullptr) return tokenizer;
  if (const auto difference = data::vocabulary_difference(*tokenizer, *source.tokenizer))
    fail_usage("--tokenizer: {} is another tokenizer than that of {}: {}", options.tokenizer, source.path.string(),
               *difference);
  return tokenizer;
}

void check_same_ids(const ModelSource& other, const data::Tokenizer* tokenizer, const char* option, const Log& log) {
  if (other.tokenizer == nullptr || tokenizer == nullptr) {
    log->warn("{}: whether its ids are those of the text is not known: there are not two tokenizers to compare",
              other.path.string());
  } else if (const auto difference = data::vocabulary_difference(*tokenizer, *other.tokenizer)) {
    fail_usage("{}: {} has another tokenizer than the text is cut by: {}", option, other.path.string(), *difference);
  }
}

std::int64_t valid_vocabulary(const ModelSource& source, const data::Tokenizer* tokenizer) {
  return tokenizer == nullptr ? source.config.vocabulary
                              : std::min(source.config.vocabulary, tokenizer->vocabulary_size());
}

}  // namespace limbeck::launch
