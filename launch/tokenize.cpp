// `limbeck tokenize`: text into a token file.
#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <vector>

#include "data/text_source.h"
#include "launch/commands.h"
#include "launch/log.h"
#include "launch/machine_peak.h"
#include "launch/model_source.h"
#include "launch/progress.h"
#include "launch/token_cache.h"

namespace limbeck::launch {

int run_tokenize(const TokenizeOptions& options) {
  if (launcher_rank().rank != 0) return 0;
  const Log log = make_log(0);
  const auto tokenizer = open_tokenizer(options.tokenizer);
  std::vector<std::string> paths;
  for (const auto& path : options.paths) paths.push_back(path.string());
  if (options.out.has_parent_path()) std::filesystem::create_directories(options.out.parent_path());

  Progress progress(log, "file", 0, static_cast<std::int64_t>(data::list_text_files(paths).size()), 1);
  data::TokenizeOptions how;
  how.threads = threads_of_rank(options.threads);
  how.progress = [&](const data::TokenizeCounts& so_far, std::int64_t done, std::int64_t) {
    progress.update(done, fmt::format("{} tokens", so_far.tokens));
  };
  const data::TokenizeCounts counts = data::tokenize_files(paths, *tokenizer, options.out.string(), how);
  progress.finish();
  log->info("{} is written", options.out.string());
  log_counts(log, counts);
  return 0;
}

}  // namespace limbeck::launch
