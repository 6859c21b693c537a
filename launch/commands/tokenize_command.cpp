// `limbeck tokenize`: text into a token file, or into a tokenizer.
#include <filesystem>
#include <string>
#include <vector>

#include "core/counted.h"
#include "data/files/atomic_file.h"
#include "data/text/bpe_training.h"
#include "data/text/text_source.h"
#include "data/tokenizers/tokenizer_json.h"
#include "launch/commands/commands.h"
#include "launch/commands/may_write.h"
#include "launch/commands/text_format.h"
#include "launch/console/log.h"
#include "launch/console/progress.h"
#include "launch/run/model_source.h"
#include "launch/run/stop_flag.h"
#include "launch/run/threads.h"
#include "launch/run/token_cache.h"

namespace limbeck::launch {

namespace {

void train_tokenizer(const TokenizeOptions& options, const std::vector<std::string>& paths, const Log& log) {
  if (options.format == "chat" || options.format == "pairs")
    core::fail_usage("--format {} is given with --train, expected text: a tokenizer is not trained on {}",
                     options.format, options.format == "chat" ? "conversations" : "pairs");
  const auto& rules = data::pretokenizer_rules(options.pretokenizer, "--pretokenizer");
  data::BpeTraining training{.vocabulary = options.vocabulary, .special = options.special};
  data::check_training(training);  // before hours of work
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    check_may_write(options.out / name, options.force, options.paths);
  std::error_code error;
  std::filesystem::create_directories(options.out, error);
  core::check(!error, "{}: this folder cannot be made: {}", options.out.string(), error.message());
  const std::vector<std::string> files = data::list_text_files(paths);
  Progress reading(log, "file", 0, static_cast<std::int64_t>(files.size()), 1);
  const data::WordCounts words = data::count_words(files, rules,
                                                   {.threads = threads_of_rank(options.threads),
                                                    .format = text_format(options.format),
                                                    .field = options.field,
                                                    .progress = [&](std::int64_t done) { reading.update(done, {}); }});
  reading.finish();
  log->info("{}", core::counted(std::ssize(words), "different word"));

  Progress merging(log, "token", 0, options.vocabulary, 1);
  training.progress = [&](std::int64_t made) { merging.update(made, {}); };
  const data::BpeDescription trained = data::train_bpe(words, rules, training);
  merging.finish();
  const auto made = static_cast<std::int64_t>(trained.tokens.size());
  if (made < options.vocabulary)
    log->warn("the text gives {}, fewer than --vocab {}: no pair is left that comes twice",
              core::counted(made, "token"), options.vocabulary);

  const data::HuggingFaceTokenizer out = data::write_tokenizer_json(trained, trained.eos);
  data::write_file_atomically(options.out / "tokenizer_config.json", out.tokenizer_config_json);
  data::write_file_atomically(options.out / "tokenizer.json", out.tokenizer_json);
  log->info("{} is written: {}", (options.out / "tokenizer.json").string(), core::counted(made, "token"));
}

}  // namespace

int run_tokenize(const TokenizeOptions& options) {
  if (is_left_to_first_rank("tokenize")) return 0;
  const Log log = make_log(0, options.verbosity);
  std::vector<std::string> paths;
  for (const auto& path : options.paths) paths.push_back(path.string());
  if (options.train) {
    train_tokenizer(options, paths, log);
    return 0;
  }
  const std::string prefix = options.out.string();
  if (!options.out.has_filename()) core::fail_usage("--out is '{}', expected the prefix of files to write", prefix);
  const bool is_begun = std::filesystem::exists(prefix + ".journal");  // this very work, interrupted
  for (const char* extension : {".bin", ".idx", ".mask", ".meta.json"})
    check_may_write(prefix + extension, options.force || is_begun, options.paths);
  const auto tokenizer = open_tokenizer(options.tokenizer, log);
  data::TokenizeOptions how;
  how.threads = threads_of_rank(options.threads);
  how.format = text_format(options.format);
  how.field = options.field;
  how.parse_special = options.parse_special;
  catch_stop_signals();
  try {
    tokenize(paths, *tokenizer, options.out.string(), how, log);
  } catch (const Stopped&) {
    log->info("stopped, and what is done is saved; the same command goes on");
    return 3;
  }
  log->info("{} is written", options.out.string());
  return 0;
}

}  // namespace limbeck::launch
