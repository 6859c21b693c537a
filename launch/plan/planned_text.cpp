#include "launch/plan/planned_text.h"

#include <memory>
#include <string>
#include <vector>

#include "data/text/mixture.h"
#include "launch/run/run_settings.h"
#include "launch/run/token_cache.h"

namespace limbeck::launch {

std::optional<std::int64_t> sequences_an_epoch(const RunConfig& config, const data::Tokenizer& tokenizer) {
  std::vector<data::MixtureSource> sources;
  for (const DataSourceConfig& source : sources_of(config.data)) {
    const std::optional<std::string> prefix = known_token_prefix(source, config.data.cache_dir, tokenizer);
    if (!prefix) return std::nullopt;
    sources.push_back({std::make_shared<data::TokenFile>(*prefix), source.weight});
  }
  if (sources.empty()) return std::nullopt;
  const data::Mixture text(sources, loader_options(config, tokenizer.vocabulary_size()));
  return text.tokens_per_epoch() / config.data.sequence_length;
}

}  // namespace limbeck::launch
