// Which tokens end an answer beside a tokenizer's end of sequence: what Hugging Face's generation_config.json and
// config.json say in eos_token_id, and GGUF files in eot_token_id and eom_token_id. Chat models have two or three.
//
//     std::string config = read_generation_config("Llama-3-8B-Instruct");
//     std::vector<std::int32_t> ends = answer_ends(config, "generation_config.json", /*vocabulary=*/128256);
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/models/gguf_keys.h"

namespace limbeck::data {

class GgufFile;

/// A folder's generation_config.json as it is, the eos_token_id of its config.json taken in where it says more; empty
/// where neither says any. Throws, naming file and field, for what is no JSON object, or no ids.
std::string read_generation_config(const std::filesystem::path& folder);

/// The ids of eos_token_id, a number or a list, each once; none of an empty config. Ids outside of the vocabulary,
/// which no model gives, are left out.
std::vector<std::int32_t> answer_ends(const std::string& generation_config, const std::string& where,
                                      std::int64_t vocabulary);

/// A generation_config.json that says them.
std::string write_generation_config(std::optional<std::int32_t> bos, const std::vector<std::int32_t>& ends);

/// `ends` without `eos`.
std::vector<std::int32_t> without(std::vector<std::int32_t> ends, std::int32_t eos);

/// Those of a GGUF file's keys; its vocabulary has `size` tokens.
std::vector<std::int32_t> answer_ends(const GgufFile& file, std::int64_t size);
/// The keys that say the ends other than the end of sequence: llama.cpp has two, Limbeck's own takes the rest.
void add_answer_ends(GgufKeys& keys, const std::vector<std::int32_t>& other_ends);

}  // namespace limbeck::data
