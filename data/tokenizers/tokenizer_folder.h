// What lies beside a tokenizer's own file in a Hugging Face folder: one tokenizer_config.json of all that older and
// newer versions of transformers keep in files of their own.
//
//     std::string config = read_tokenizer_config("Qwen2.5-7B");
#pragma once

#include <filesystem>
#include <string>

namespace limbeck::data {

/// tokenizer_config.json as it is; where they say what it does not, with the template of chat_template.jinja, the
/// special tokens of special_tokens_map.json and, as added_tokens_decoder, the tokens of added_tokens.json. Empty where
/// none is there. Throws, naming the file, for one that is no JSON object.
std::string read_tokenizer_config(const std::filesystem::path& folder);

/// The same with the added_tokens of a tokenizer.json in the folder among those of added_tokens_decoder: for a
/// SentencePiece model, which has none itself.
std::string read_tokenizer_config_with_added_tokens(const std::filesystem::path& folder);

/// Whether a file of this name is (part of) a tokenizer, or says how a model is to be used.
bool is_tokenizer_file(const std::string& name);

}  // namespace limbeck::data
