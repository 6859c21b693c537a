// What `limbeck inspect` says of each kind of thing.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "data/text/token_file.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/commands/inspection.h"
#include "launch/run/model_source.h"

namespace limbeck::launch {

/// Of a file that begins as GGUF does: also of one that no model can be loaded from, and why. Throws where it is
/// damaged.
Inspection inspect_gguf(const std::filesystem::path& path);
/// Of a folder with a config.json: also where it is not read, and why.
Inspection inspect_hugging_face(const std::filesystem::path& folder);
/// Of a checkpoint.
Inspection inspect_checkpoint(const std::filesystem::path& folder);
/// Of a run directory: its results, and its newest checkpoint, where it has a good one.
Inspection inspect_run(const std::filesystem::path& folder);
Inspection inspect_safetensors(const std::filesystem::path& path);
Inspection inspect_hdf5(const std::filesystem::path& path);

/// Layers by kind, experts, the chat template, and warnings of what may surprise: a tokenizer larger than the embedding
/// or smaller, padding that is an end of text.
void add_summary(Inspection& found, const ModelSource& model);
/// The name of the tokenizer's chat template; "unknown" where it is none of those that are known, null where it has
/// none.
nlohmann::ordered_json chat_template_json(const data::Tokenizer& tokenizer);
void add_chat_template(Inspection& found, const data::Tokenizer& tokenizer);

/// Of a tokenizer in a file or folder of its own.
Inspection inspect_tokenizer(const std::filesystem::path& path);
/// {"kind", "vocabulary", "special_tokens", ...}.
nlohmann::ordered_json tokenizer_json(const data::Tokenizer& tokenizer);

/// Lines of a token file's documents, their lengths, and the tokens used, the frequent ones spelt out where there is a
/// tokenizer.
Inspection inspect_tokens(const data::TokenFile& file, const data::Tokenizer* tokenizer);

}  // namespace limbeck::launch
