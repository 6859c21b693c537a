#include "data/text/documents.h"

#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "data/files/ordered_work.h"
#include "data/text/text_jobs.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

using core::check;

namespace {

std::vector<Document> documents_of(const TextJob& job, const JsonField& field, const Tokenizer& tokenizer,
                                   const DocumentOptions& options) {
  std::vector<Document> documents;
  for_each_document(job, field, [&](const std::string& text, std::int64_t line) {
    if (text.empty()) return;
    EncodeCounts counts;
    std::vector<std::int32_t> ids = document_ids(tokenizer, text, options.parse_special, &counts);
    const std::size_t bytes = counts.repaired_sequences == 0 ? text.size() : repair_utf8(text).utf8.size();
    documents.push_back({.name = line == 0 ? job.file : fmt::format("{}:{}", job.file, line),
                         .ids = std::move(ids),
                         .bytes = static_cast<std::int64_t>(bytes),
                         .repaired_sequences = counts.repaired_sequences});
  });
  return documents;
}

}  // namespace

std::vector<std::int32_t> document_ids(const Tokenizer& tokenizer, std::string_view text, bool parse_special,
                                       EncodeCounts* counts) {
  std::vector<std::int32_t> ids = tokenizer.encode(text, parse_special, counts);
  const auto start = tokenizer.start_of_text_id();
  if (start && (ids.empty() || ids.front() != *start)) ids.insert(ids.begin(), *start);
  if (ids.empty() || ids.back() != tokenizer.end_of_text_id()) ids.push_back(tokenizer.end_of_text_id());
  return ids;
}

std::vector<Document> read_documents(const std::vector<std::string>& paths, const Tokenizer& tokenizer,
                                     const DocumentOptions& options) {
  check(options.threads >= 1, "documents: {} threads, expected at least 1", options.threads);
  const JsonField field(options.field);
  TextJobs jobs(list_text_files(paths), options.format);
  std::vector<Document> documents;
  OrderedWork<TextJob, std::vector<Document>> work;
  work.most_cost = 4 * static_cast<std::int64_t>(options.threads);
  work.read = [&] { return jobs.next(); };
  work.work = [&](const TextJob& job) { return documents_of(job, field, tokenizer, options); };
  work.write = [&](std::vector<Document>&& found) {
    std::move(found.begin(), found.end(), std::back_inserter(documents));
  };
  work.run(options.threads);
  check(!documents.empty(), "{}: there is no text in these files, expected a document", fmt::join(paths, ", "));
  return documents;
}

std::vector<Document> documents_of(const TokenFile& file, const Tokenizer* tokenizer) {
  std::vector<Document> documents;
  for (std::int64_t i = 0; i < file.num_documents(); ++i) {
    Document document{.name = fmt::format("{}:{}", file.prefix(), i), .ids = file.read(i)};
    if (document.ids.empty()) continue;
    if (tokenizer != nullptr)
      of_file(document.name, [&] { document.bytes = bytes_between_ends(document, *tokenizer); });
    documents.push_back(std::move(document));
  }
  check(!documents.empty(), "{}: holds no tokens", file.prefix());
  return documents;
}

std::uint64_t fingerprint(const std::vector<Document>& documents) {
  std::uint64_t h = core::hash_seed;
  for (const Document& document : documents) {
    h = core::hash_name(document.name, h);
    h = XXH3_64bits_withSeed(document.ids.data(), document.ids.size() * sizeof(std::int32_t), h);
  }
  return h;
}

std::int64_t bytes_between_ends(const Document& document, const Tokenizer& tokenizer) {
  return static_cast<std::int64_t>(tokenizer.decode(inner_ids(document.ids, tokenizer)).size());
}

std::span<const std::int32_t> inner_ids(std::span<const std::int32_t> ids, const Tokenizer& tokenizer) {
  const auto start = tokenizer.start_of_text_id();
  if (start && !ids.empty() && ids.front() == *start) ids = ids.subspan(1);
  if (!ids.empty() && ids.back() == tokenizer.end_of_text_id()) ids = ids.first(ids.size() - 1);
  return ids;
}

}  // namespace limbeck::data
