// A model as a GGUF file of the first family that holds it, which llama.cpp runs and GgufModel reads back.
//
//     export_gguf(checkpoint, config, "student.gguf", {.dtype = DType::Q8_0, .tokenizer = tokenizer.get()});
#pragma once

#include <cstdint>
#include <filesystem>

#include "core/nn/model_config.h"
#include "core/state_dict.h"
#include "data/models/export_tensors.h"
#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

struct GgufExport {
  /// Of matrices: F32, F16, BF16, Q8_0, Q4_0, Q6_K, or, of most, Q5_K or Q4_K, which are llama.cpp's mixes Q5_K_M and
  /// Q4_K_M (gguf_choice.h); norms and routers are F32. MXFP4 is of experts, beside BF16.
  core::DType dtype = core::DType::F32;
  const Tokenizer* tokenizer = nullptr;                  // none: llama.cpp then takes token ids only
  std::int64_t values_at_once = std::int64_t{1} << 18U;  // of a tensor, read on a thread; at least a row or a head
  ExportWork work = {};
};

/// Writes `path` whole or not at all, in place of an older file, a few rows of one tensor in memory at a time. Until it
/// is whole it is `path`.tmp, with `path`.journal, by which an interrupted export goes on (ExportWork). Throws,
/// saying what and why, for what no architecture of GGUF can say (beyond_gguf), a value that the dtype
/// cannot hold, and a tokenizer it does not know. Returns how many matrices are of another dtype because their rows are
/// not whole blocks of it, as llama.cpp does it.
std::int64_t export_gguf(const core::StateReader& model, const nn::ModelConfig& whole,
                         const std::filesystem::path& path, const GgufExport& options);

}  // namespace limbeck::data
