// What `limbeck inspect` says of a token file.
//
//     write_result(token_file_text(data::TokenFile("data/train"), tokenizer.get()));
#pragma once

#include <string>

#include "data/text/token_file.h"
#include "data/tokenizers/tokenizer.h"

namespace limbeck::launch {

/// Lines of its documents, their lengths, and the tokens used, the frequent ones spelt out where there is a tokenizer.
std::string token_file_text(const data::TokenFile& file, const data::Tokenizer* tokenizer);

}  // namespace limbeck::launch
