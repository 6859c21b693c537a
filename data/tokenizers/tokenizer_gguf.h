// Tokenizers of GGUF files. The way back is Tokenizer::to_gguf.
//
//     std::shared_ptr<const Tokenizer> tokenizer = tokenizer_from_gguf(GgufFile("model.gguf"));
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/models/gguf.h"
#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

/// The byte-level BPE or SentencePiece tokenizer that the file's tokenizer.ggml keys describe. Throws, naming file and
/// key, where they are incomplete or not of a kind that is supported. The end of a document is <|endoftext|> or
/// <|end_of_text|>, else the end of an answer.
std::shared_ptr<const Tokenizer> tokenizer_from_gguf(const GgufFile& file);
/// The tokens of its vocabulary without those at the end, [PAD7] and so on, that only fill it up to the model's rows.
std::vector<std::string> gguf_tokens(const GgufFile& file);

}  // namespace limbeck::data
