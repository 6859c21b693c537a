#include "data/text_source.h"

#include <zlib.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <thread>

#include "core/error.h"
#include "data/token_file.h"

namespace limbeck::data {

namespace fs = std::filesystem;
using core::check;
using core::fail;

namespace {

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with('.'); }

void add_folder(const fs::path& folder, std::vector<std::string>& files) {
  std::vector<std::string> found;
  try {
    for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::recursive_directory_iterator(); ++entry) {
      if (is_hidden(entry->path()))
        entry.disable_recursion_pending();
      else if (entry->is_regular_file())
        found.push_back(entry->path().string());
    }
  } catch (const fs::filesystem_error& error) {
    fail("{}: cannot be listed: {}", error.path1().string(), error.code().message());
  }
  std::sort(found.begin(), found.end());
  files.insert(files.end(), found.begin(), found.end());
}

struct Encoded {
  std::vector<std::int32_t> ids;
  std::int64_t bytes = 0;
  EncodeCounts counts;
};

Encoded encode_file(const std::string& path, const Tokenizer& tokenizer, std::int64_t max_bytes) {
  Encoded result;
  const std::string text = read_document(path, max_bytes);
  if (text.empty()) return result;
  result.bytes = static_cast<std::int64_t>(text.size());
  result.ids = tokenizer.encode(text, false, &result.counts);
  result.ids.push_back(tokenizer.end_of_text_id());
  return result;
}

/// Encodes files [first, first + results.size()), shared out among threads as they become free.
void encode_window(const std::vector<std::string>& files, std::size_t first, const Tokenizer& tokenizer,
                   const TokenizeOptions& options, std::vector<Encoded>& results) {
  std::atomic<std::size_t> next = 0;
  std::vector<std::exception_ptr> errors(results.size());
  const auto work = [&] {
    for (std::size_t i = next++; i < results.size(); i = next++) {
      try {
        results[i] = encode_file(files[first + i], tokenizer, options.max_document_bytes);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    }
  };
  std::vector<std::jthread> others;
  for (int t = 1; t < options.threads; ++t) others.emplace_back(work);
  work();
  others.clear();  // joins
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace

std::vector<std::string> list_text_files(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const auto& path : paths) {
    std::error_code error;
    const auto kind = fs::status(path, error).type();
    if (kind == fs::file_type::directory)
      add_folder(path, files);
    else if (kind == fs::file_type::regular)
      files.push_back(path);
    else
      fail("{}: is not there, expected a text file or a folder", path);
  }
  check(!files.empty(), "{}: no text files found", fmt::join(paths, ", "));
  return files;
}

std::string read_document(const std::string& path, std::int64_t max_bytes) {
  errno = 0;
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose_r);
  check(file != nullptr, "{}: cannot be opened: {}", path, std::strerror(errno));
  constexpr unsigned chunk = 1U << 18U;
  gzbuffer(file.get(), chunk);
  std::string text;
  while (true) {
    const std::size_t before = text.size();
    text.resize(before + chunk);
    errno = 0;
    const int got = gzread(file.get(), text.data() + before, chunk);
    text.resize(before + static_cast<std::size_t>(std::max(got, 0)));
    int status = Z_OK;
    const char* message = gzerror(file.get(), &status);
    check(got >= 0 && (status == Z_OK || status == Z_STREAM_END), "{}: cannot be read after {} bytes of text: {}", path,
          text.size(), status == Z_ERRNO ? std::strerror(errno) : message);
    check(static_cast<std::int64_t>(text.size()) <= max_bytes,
          "{}: holds more than {} bytes, the limit for one document", path, max_bytes);
    if (got == 0) return text;
  }
}

TokenizeCounts tokenize_files(const std::vector<std::string>& paths, const Tokenizer& tokenizer,
                              const std::string& prefix, const TokenizeOptions& options) {
  check(options.threads >= 1, "tokenize: {} threads, expected at least 1", options.threads);
  const std::vector<std::string> files = list_text_files(paths);
  TokenFileWriter writer(prefix, tokenizer.vocabulary_size());
  TokenizeCounts counts;
  constexpr std::size_t window = 32;  // documents in memory
  for (std::size_t first = 0; first < files.size(); first += window) {
    std::vector<Encoded> results(std::min(window, files.size() - first));
    encode_window(files, first, tokenizer, options, results);
    for (const auto& document : results) {
      if (document.bytes == 0) continue;
      writer.add(document.ids);
      ++counts.documents;
      counts.bytes += document.bytes;
      counts.tokens += static_cast<std::int64_t>(document.ids.size());
      counts.encode.dropped_bytes += document.counts.dropped_bytes;
      counts.encode.repaired_sequences += document.counts.repaired_sequences;
    }
    if (options.progress)
      options.progress(counts, static_cast<std::int64_t>(first + results.size()),
                       static_cast<std::int64_t>(files.size()));
  }
  check(counts.documents > 0, "{}: all {} files are empty", fmt::join(paths, ", "), files.size());
  writer.finish();
  return counts;
}

}  // namespace limbeck::data
