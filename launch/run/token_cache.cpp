#include "launch/run/token_cache.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>

#include "core/counted.h"
#include "core/random.h"
#include "data/text/token_hash.h"
#include "launch/console/progress.h"
#include "launch/run/stop_flag.h"
#include "launch/run/threads.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;

/// A name for what these files, cut into tokens by this tokenizer, give.
std::string cache_name(const std::vector<std::string>& files, const DataSourceConfig& source,
                       const data::Tokenizer& tokenizer) {
  std::uint64_t h = core::hash_name(tokenizer.to_json());
  for (const std::string& file : files) {
    const auto time = fs::last_write_time(file).time_since_epoch().count();
    h = core::hash_name(fmt::format("{}\n{}\n{}\n", fs::absolute(file).string(), fs::file_size(file), time), h);
    if (data::is_json_lines(file, source.format))
      h = core::hash_name(data::field_of(source.format, source.field) + "\n", h);
  }
  if (source.format == data::TextFormat::Chat) h = core::hash_name("conversations\n", h);
  if (source.format == data::TextFormat::Pairs) h = core::hash_name("pairs\n", h);
  if (source.parse_special) h = core::hash_name("special tokens\n", h);
  return fmt::format("{:016x}", h);
}

}  // namespace

void tokenize(const std::vector<std::string>& paths, const data::Tokenizer& tokenizer, const std::string& prefix,
              data::TokenizeOptions options, const Log& log) {
  std::optional<Progress> progress;
  options.progress = [&](const data::TokenizeCounts& so_far, std::int64_t done, std::int64_t total) {
    if (stop_requested()) throw Stopped();
    const bool is_large = total >= std::int64_t{1} << 26U;
    const int shift = is_large ? 20 : 10;
    const auto rounded_up = [&](std::int64_t bytes) { return (bytes + (std::int64_t{1} << shift) - 1) >> shift; };
    if (!progress) progress.emplace(log, is_large ? "MiB" : "KiB", rounded_up(done), rounded_up(total), 1);
    progress->update(rounded_up(done), {{"documents", fmt::format("{}", so_far.documents)},
                                        {"tokens", fmt::format("{}", so_far.tokens)}});
  };
  options.notice = [&](const std::string& line) { log->info("{}", line); };
  const data::TokenizeCounts counts = data::tokenize_files(paths, tokenizer, prefix, options);
  if (progress) progress->finish();
  if (counts.documents == 0) return;
  log->info("{}, {}, {}", core::counted(counts.documents, "document"), core::counted(counts.bytes, "byte"),
            core::counted(counts.tokens, "token"));
  if (counts.encode.dropped_bytes > 0)
    log->warn("dropped: {}, for which the tokenizer has no token", core::counted(counts.encode.dropped_bytes, "byte"));
  if (options.parse_special)
    log->info("taken by name from the text: {}", core::counted(counts.encode.special_names, "special token"));
  else if ((options.format == data::TextFormat::Chat || options.format == data::TextFormat::Pairs) &&
           counts.encode.special_names > 0)
    log->info("taken as ordinary text in messages: {} of a special token",
              core::counted(counts.encode.special_names, "name"));
  else if (counts.encode.special_names > 0)
    log->warn(
        "taken as ordinary text: {} of a special token; parse_special in the config (--parse-special of tokenize) "
        "makes "
        "them those tokens",
        core::counted(counts.encode.special_names, "name"));
  if (counts.encode.repaired_sequences > 0)
    log->warn("{} became U+FFFD", core::counted(counts.encode.repaired_sequences, "ill-formed UTF-8 sequence"));
}

std::optional<std::string> known_token_prefix(const DataSourceConfig& source, const fs::path& cache_dir,
                                              const data::Tokenizer& tokenizer) {
  if (!std::ranges::all_of(source.text, [](const std::string& path) { return fs::exists(path); })) return std::nullopt;
  std::string prefix = source.tokens;
  if (prefix.empty()) prefix = (cache_dir / cache_name(data::list_text_files(source.text), source, tokenizer)).string();
  return fs::exists(prefix + ".idx") && fs::exists(prefix + ".bin") ? std::optional(prefix) : std::nullopt;
}

std::string token_prefix(Rank& rank, const DataSourceConfig& source, const fs::path& cache_dir,
                         const data::Tokenizer& tokenizer, const Log& log) {
  if (!source.tokens.empty()) return source.tokens;
  std::string prefix;
  on_first_rank(rank, [&] {
    const std::vector<std::string> files = data::list_text_files(source.text);
    prefix = (cache_dir / cache_name(files, source, tokenizer)).string();
    if (fs::exists(prefix + ".idx") || fs::exists(prefix + ".bin")) {
      const auto damage = data::find_token_damage(prefix);
      if (!damage) return;
      log->error("{}: the tokens are made again", *damage);
    }
    log->info("tokenizing {} to {}", core::counted(std::ssize(files), "file"), prefix);
    data::TokenizeOptions options;
    options.threads = threads_of_rank(0);
    options.format = source.format;
    options.field = source.field;
    options.parse_special = source.parse_special;
    options.is_kept = true;
    tokenize(files, tokenizer, prefix, options, log);
  });
  return gather_strings(rank, prefix).front();
}

}  // namespace limbeck::launch
