#include "launch/token_cache.h"

#include <chrono>
#include <filesystem>

#include "core/random.h"
#include "launch/machine_peak.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;

/// A name for what these files, cut into tokens by this tokenizer, give.
std::string cache_name(const std::vector<std::string>& files, const data::Tokenizer& tokenizer) {
  std::uint64_t h = core::hash_name(tokenizer.to_json());
  for (const std::string& file : files) {
    const auto time = fs::last_write_time(file).time_since_epoch().count();
    h = core::hash_name(fmt::format("{}\n{}\n{}\n", fs::absolute(file).string(), fs::file_size(file), time), h);
  }
  return fmt::format("{:016x}", h);
}

}  // namespace

void log_counts(const Log& log, const data::TokenizeCounts& counts) {
  log->info("{} documents, {} bytes, {} tokens", counts.documents, counts.bytes, counts.tokens);
  if (counts.encode.dropped_bytes > 0)
    log->warn("{} bytes were dropped: the tokenizer has no token for them", counts.encode.dropped_bytes);
  if (counts.encode.repaired_sequences > 0)
    log->warn("{} ill-formed UTF-8 sequences became U+FFFD", counts.encode.repaired_sequences);
}

std::string token_prefix(Rank& rank, const DataConfig& config, const data::Tokenizer& tokenizer, const Log& log) {
  if (!config.tokens.empty()) return config.tokens;
  std::string prefix;
  on_first_rank(rank, [&] {
    const std::vector<std::string> files = data::list_text_files(config.text);
    prefix = (fs::path(config.cache_dir) / cache_name(files, tokenizer)).string();
    if (fs::exists(prefix + ".idx") && fs::exists(prefix + ".bin")) return;
    fs::create_directories(config.cache_dir);
    log->info("tokenizing {} files to {}", files.size(), prefix);
    data::TokenizeOptions options;
    options.threads = threads_of_rank(0);
    const data::TokenizeCounts counts = data::tokenize_files(files, tokenizer, prefix, options);
    log_counts(log, counts);
  });
  return gather_strings(rank, prefix).front();
}

}  // namespace limbeck::launch
