// A model as a GGUF file of the first family that holds it, which llama.cpp runs and GgufModel reads back.
//
//     export_gguf(checkpoint, config, "student.gguf", {.dtype = DType::Q8_0, .tokenizer = tokenizer.get()});
#pragma once

#include <cstdint>
#include <filesystem>

#include "core/nn/model_config.h"
#include "core/state_dict.h"
#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

struct GgufExport {
  core::DType dtype = core::DType::F32;  // of matrices: F32, F16, BF16 or Q8_0; norms and routers are F32
  const Tokenizer* tokenizer = nullptr;  // none: llama.cpp then takes token ids only
  std::int64_t values_at_once = std::int64_t{1} << 22U;  // of a tensor, in memory; at least a row or a head
};

/// Writes `path` whole or not at all, in place of an older file, a few rows of one tensor in memory at a time. Throws,
/// saying what and why, for what no architecture of GGUF can say (beyond_gguf), a value that the dtype
/// cannot hold, and a tokenizer it does not know. Returns how many matrices are F16 because their rows are not whole
/// Q8_0 blocks of 32, as llama.cpp does it.
std::int64_t export_gguf(const core::StateReader& model, const nn::ModelConfig& config,
                         const std::filesystem::path& path, const GgufExport& options);

}  // namespace limbeck::data
