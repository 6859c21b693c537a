#include "data/text/documents.h"

#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "data/files/ordered_work.h"
#include "data/text/chat_lines.h"
#include "data/text/preference_lines.h"
#include "data/text/text_jobs.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

using core::check;

namespace {

std::vector<Document> documents_of(const TextJob& job, const DocumentEncoder& encoder) {
  std::vector<Document> documents;
  const auto use = [&](EncodedDocument&& document) {
    documents.push_back({.name = document.line == 0 ? job.file : fmt::format("{}:{}", job.file, document.line),
                         .ids = std::move(document.ids),
                         .is_target = std::move(document.is_target),
                         .bytes = encoder.has_targets() ? std::nullopt : std::optional(document.utf8_bytes),
                         .repaired_sequences = document.counts.repaired_sequences});
  };
  if (job.lines)
    encoder.encode_lines(*job.lines, job.file, use);
  else
    encoder.encode_text(read_document(job.file, TextJobs::max_document_bytes), job.file, use);
  return documents;
}

}  // namespace

DocumentEncoder::DocumentEncoder(const Tokenizer& tokenizer, TextFormat format, const std::string& field,
                                 bool parse_special)
    : tokenizer_(tokenizer),
      field_(field_of(format, field)),
      parse_special_(parse_special),
      has_pairs_(format == TextFormat::Pairs) {
  if (format != TextFormat::Chat && !has_pairs_) return;
  if (parse_special)
    core::fail_usage("parse_special is given for {}, in whose messages no name becomes a special token",
                     has_pairs_ ? "pairs" : "conversations");
  if (has_pairs_ && field != "text")
    core::fail_usage("field is \"{}\" of pairs, expected none: theirs are prompt, chosen and rejected", field);
  if (!has_pairs_ || chat_template_name(tokenizer.chat_template())) chat_.emplace(tokenizer);
}

void DocumentEncoder::encode_text(std::string_view text, std::int64_t line, const Use& use) const {
  if (text.empty()) return;
  EncodedDocument document{.line = line};
  document.ids = document_ids(tokenizer_, text, parse_special_, &document.counts);
  document.bytes = static_cast<std::int64_t>(text.size());
  document.utf8_bytes =
      static_cast<std::int64_t>(document.counts.repaired_sequences == 0 ? text.size() : repair_utf8(text).utf8.size());
  use(std::move(document));
}

void DocumentEncoder::encode_text(std::string_view text, const std::string& file, const Use& use) const {
  of_file(file, [&] { encode_text(text, 0, use); });
}

/// The tokens of the response are those behind the prompt's in the whole text, where the whole begins with these.
EncodedDocument DocumentEncoder::encode_response(const std::string& prompt, const std::string& response) const {
  EncodedDocument document;
  std::vector<std::int32_t>& ids = document.ids;
  ids = tokenizer_.encode(prompt);
  const auto num_given = std::ssize(ids);
  const auto start = tokenizer_.start_of_text_id();
  check(num_given > 0 || start, "prompt has no token, expected one or more");
  std::vector<std::int32_t> whole = tokenizer_.encode(prompt + response, false, &document.counts);
  if (std::ssize(whole) >= num_given && std::equal(ids.begin(), ids.end(), whole.begin())) {
    ids = std::move(whole);
  } else {
    const std::vector<std::int32_t> behind = tokenizer_.encode(response);
    ids.insert(ids.end(), behind.begin(), behind.end());
  }
  if (std::ssize(ids) == num_given || ids.back() != tokenizer_.end_of_text_id())
    ids.push_back(tokenizer_.end_of_text_id());
  document.is_target.assign(ids.size(), 1);
  std::fill_n(document.is_target.begin(), num_given, std::uint8_t{0});
  if (start && ids.front() != *start) {
    ids.insert(ids.begin(), *start);
    document.is_target.insert(document.is_target.begin(), 0);
  }
  document.bytes = static_cast<std::int64_t>(prompt.size() + response.size());
  return document;
}

void DocumentEncoder::encode_pair(std::string_view line, const std::string& file, std::int64_t number,
                                  const Use& use) const {
  const PreferencePair pair = pair_of(line, file, number);
  const auto encode = [&](const std::vector<ChatMessage>& messages) {
    EncodedDocument document;
    ChatTokens tokens = chat_ ? chat_->encode(messages, &document.counts, pair.num_given)
                              : ChatTemplate(tokenizer_).encode(messages);  // throws: there is none that is known
    for (const ChatMessage& message : messages) document.bytes += static_cast<std::int64_t>(message.content.size());
    document.ids = std::move(tokens.ids);
    document.is_target = std::move(tokens.is_target);
    return document;
  };
  const auto both = of_file(fmt::format("{}:{}", file, number), [&] {
    return pair.is_chat()
               ? std::array{encode(pair.chosen_messages), encode(pair.rejected_messages)}
               : std::array{encode_response(pair.prompt, pair.chosen), encode_response(pair.prompt, pair.rejected)};
  });
  for (EncodedDocument document : both) {
    document.line = number;
    use(std::move(document));
  }
}

void DocumentEncoder::encode_lines(const LineBlock& block, const std::string& file, const Use& use) const {
  if (has_pairs_)
    return for_each_line(block,
                         [&](std::string_view line, std::int64_t number) { encode_pair(line, file, number, use); });
  if (!chat_)
    return for_each_text(block, field_, file, [&](std::string&& text, std::int64_t line) {
      of_file(file, [&] { encode_text(text, line, use); });
    });
  for_each_conversation(block, field_, file, [&](std::vector<ChatMessage>&& messages, std::int64_t line) {
    EncodedDocument document{.line = line};
    ChatTokens tokens =
        of_file(fmt::format("{}:{}", file, line), [&] { return chat_->encode(messages, &document.counts); });
    for (const ChatMessage& message : messages) document.bytes += static_cast<std::int64_t>(message.content.size());
    document.ids = std::move(tokens.ids);
    document.is_target = std::move(tokens.is_target);
    use(std::move(document));
  });
}

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
  const DocumentEncoder encoder(tokenizer, options.format, options.field, options.parse_special);
  TextJobs jobs(list_text_files(paths), options.format);
  std::vector<Document> documents;
  OrderedWork<TextJob, std::vector<Document>> work;
  work.most_cost = 4 * static_cast<std::int64_t>(options.threads);
  work.read = [&] { return jobs.next(); };
  work.work = [&](const TextJob& job) { return documents_of(job, encoder); };
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
    if (file.has_mask())
      document.is_target = file.read_mask(i);
    else if (tokenizer != nullptr)
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
    if (!document.is_target.empty()) h = XXH3_64bits_withSeed(document.is_target.data(), document.is_target.size(), h);
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
