// The tokens that --tokens names: of a token file, or of a text of integers.
//
//     std::vector<std::int32_t> ids = read_ids("tokens/web", source);      // all documents, one behind the other
//     std::vector<data::Document> documents = read_token_documents("tokens/web", source, tokenizer.get());
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "data/text/documents.h"
#include "launch/run/model_source.h"

namespace limbeck::launch {

/// PREFIX of PREFIX, PREFIX.bin and PREFIX.idx.
std::filesystem::path token_prefix(std::filesystem::path path);

/// From a token file (PREFIX, PREFIX.bin or PREFIX.idx) or a text of integers; checked against the model's vocabulary,
/// and its tokenizer where both say theirs. Throws, naming file and place.
std::vector<std::int32_t> read_ids(const std::filesystem::path& path, const ModelSource& model);

/// The same by document; a text of integers is one. Their bytes are known where there is a tokenizer.
std::vector<data::Document> read_token_documents(const std::filesystem::path& path, const ModelSource& model,
                                                 const data::Tokenizer* tokenizer);

}  // namespace limbeck::launch
