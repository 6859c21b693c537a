// Adapters alone, as PyPI's `peft` has them: adapter_config.json and adapter_model.safetensors beside a base model.
//
//     export_peft(checkpoint, config, "adapter", {.rank = 8, .alpha = 16, .base = "SmolLM2-135M-Instruct"});
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/nn/model_config.h"
#include "core/state_dict.h"

namespace limbeck::data {

struct PeftExport {
  std::int64_t rank = 0;
  double alpha = 0;
  std::string base = {};  // base_model_name_or_path; empty: it is not known by a name
  bool replace = false;   // files of those names
};

/// Writes both files into `folder` (made if need be), in float32, by the names that the first family that holds the
/// model has for its modules; of a stack of experts the factors of each. `adapters` has tensors by nn::adapter_name.
/// Throws where no family holds the model, for an adapter of a matrix that the family stores in another form (as one
/// with others, transposed, with rows in another order) or of which peft refuses it (out_proj of Mamba-2), and a
/// UsageError where the files are there.
void export_peft(const core::StateReader& adapters, const nn::ModelConfig& config, const std::filesystem::path& folder,
                 const PeftExport& options);

}  // namespace limbeck::data
