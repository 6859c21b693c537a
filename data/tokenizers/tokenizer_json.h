// Hugging Face's tokenizer.json: BPE on bytes or with byte fallback in, with its normalizers, pre-tokenizers, added
// tokens and template; and out.
//
//     auto tokenizer = open_hugging_face_tokenizer("Qwen3-0.6B");     // a folder, or tokenizer.json itself
//     tokenizer->encode("The state is");                              // as PyPI's tokenizers
//     tokenizer->to_hugging_face().tokenizer_json;                    // the file as it was
//
// Padding and truncation, which are of batches made elsewhere, are not applied.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "data/tokenizers/tokenizer.h"
#include "data/tokenizers/tokenizer_bpe.h"

namespace limbeck::data {

/// `path` is a folder with tokenizer.json, or such a file. What lies beside it (tokenizer_folder.h, answer_ends.h) says
/// which tokens end and begin a sequence; without that the usual names are looked for. Throws, naming file and JSON
/// path, for what is broken or is not supported.
std::shared_ptr<const Tokenizer> open_hugging_face_tokenizer(const std::filesystem::path& path);

/// The same from the files' contents; tokenizer_config_json may be empty.
std::shared_ptr<const Tokenizer> tokenizer_from_hugging_face(HuggingFaceTokenizer files, const std::string& where);

/// What a tokenizer.json describes.
BpeDescription read_tokenizer_json(const HuggingFaceTokenizer& files, const std::string& where);

/// The files of a description whose pieces are all Isolated, as those that GGUFs and training give.
HuggingFaceTokenizer write_tokenizer_json(const BpeDescription& description, std::int32_t end_of_text);

}  // namespace limbeck::data
