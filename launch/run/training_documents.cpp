#include "launch/run/training_documents.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "core/counted.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/run/run_directory.h"

namespace limbeck::launch {

namespace fs = std::filesystem;

namespace {

fs::path file_in(const fs::path& run) { return run / "training_documents.xxh3"; }

std::uint64_t mark_of(const data::Tokenizer& tokenizer) {
  return data::vocabulary_fingerprint(tokenizer, data::named_size(tokenizer));
}

}  // namespace

data::DocumentHashes training_documents(const data::Mixture& text, const data::Tokenizer& tokenizer) {
  data::DocumentHashes documents{.tokenizer = mark_of(tokenizer), .hashes = {}};
  for (const data::Loader& source : text.sources())
    for (const std::int64_t document : source.train_documents())
      documents.hashes.push_back(data::document_hash(source.file().read(document), tokenizer));
  auto& hashes = documents.hashes;
  std::sort(hashes.begin(), hashes.end());
  hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
  return documents;
}

void keep_training_documents(const fs::path& run, const data::Mixture& text, const data::Tokenizer& tokenizer) {
  if (!fs::exists(file_in(run))) data::write_document_hashes(file_in(run), training_documents(text, tokenizer));
}

std::optional<data::DocumentHashes> read_training_documents(const ModelSource& source) {
  if (source.kind != ModelKind::Checkpoint) return std::nullopt;
  fs::path folder = fs::absolute(source.path).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();  // a path that ends in a slash
  const fs::path run = folder.parent_path().parent_path();
  if (!RunDirectory::is_run(run) || !fs::exists(file_in(run))) return std::nullopt;
  return data::read_document_hashes(file_in(run));
}

std::optional<std::vector<std::size_t>> trained_on(const std::vector<data::Document>& documents,
                                                   const data::DocumentHashes& known,
                                                   const data::Tokenizer& tokenizer) {
  if (known.tokenizer != mark_of(tokenizer)) return std::nullopt;
  std::vector<std::size_t> found;
  for (std::size_t d = 0; d < documents.size(); ++d)
    if (known.contains(data::document_hash(documents[d].ids, tokenizer))) found.push_back(d);
  return found;
}

std::string trained_on_text(const std::vector<data::Document>& documents, const std::vector<std::size_t>& which) {
  constexpr std::size_t most_names = 5;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < std::min(which.size(), most_names); ++i) names.push_back(documents[which[i]].name);
  if (which.size() > most_names) names.push_back(fmt::format("and {} more", which.size() - most_names));
  return fmt::format("{} of {} {} in the training text: {}", which.size(),
                     core::counted(std::ssize(documents), "document"), which.size() == 1 ? "is" : "are",
                     fmt::join(names, ", "));
}

}  // namespace limbeck::launch
