// `limbeck tokenize`: text into a token file.
#include <string>
#include <vector>

#include "launch/commands.h"
#include "launch/log.h"
#include "launch/machine_peak.h"
#include "launch/model_source.h"
#include "launch/token_cache.h"

namespace limbeck::launch {

int run_tokenize(const TokenizeOptions& options) {
  if (launcher_rank().rank != 0) return 0;
  const Log log = make_log(0, options.verbosity);
  const auto tokenizer = open_tokenizer(options.tokenizer);
  std::vector<std::string> paths;
  for (const auto& path : options.paths) paths.push_back(path.string());
  data::TokenizeOptions how;
  how.threads = threads_of_rank(options.threads);
  how.format = options.format == "jsonl"  ? data::TextFormat::JsonLines
               : options.format == "text" ? data::TextFormat::Plain
                                          : data::TextFormat::Auto;
  how.field = options.field;
  tokenize(paths, *tokenizer, options.out.string(), how, log);
  log->info("{} is written", options.out.string());
  return 0;
}

}  // namespace limbeck::launch
