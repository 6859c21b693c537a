// Which documents a run learns from, kept in its run directory, and which documents of another text are among them.
//
//     keep_training_documents(run.path(), *session.text, *session.tokenizer);
//     if (const auto known = read_training_documents(source))
//       warn(trained_on(documents, *known, *tokenizer));
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/text/document_hashes.h"
#include "data/text/documents.h"
#include "data/text/mixture.h"
#include "launch/run/model_source.h"

namespace limbeck::launch {

/// Reads the text's training documents, all of them; what is held out is not among them.
data::DocumentHashes training_documents(const data::Mixture& text, const data::Tokenizer& tokenizer);

/// Writes them as training_documents.xxh3, unless it is there: a run goes on over the same text alone.
void keep_training_documents(const std::filesystem::path& run, const data::Mixture& text,
                             const data::Tokenizer& tokenizer);

/// Of the run that a checkpoint lies in; nothing for other models, and where the run has kept none.
std::optional<data::DocumentHashes> read_training_documents(const ModelSource& source);

/// Which of the documents are among those, by their place; nothing where `tokenizer` gives other ids than the run's.
std::optional<std::vector<std::size_t>> trained_on(const std::vector<data::Document>& documents,
                                                   const data::DocumentHashes& known, const data::Tokenizer& tokenizer);

/// "3 of 12 documents are in the training text: a.txt, b.txt, c.txt", the first few by name.
std::string trained_on_text(const std::vector<data::Document>& documents, const std::vector<std::size_t>& which);

}  // namespace limbeck::launch
