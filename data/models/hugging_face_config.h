// config.json of a Hugging Face model directory, for the reader and the exporter.
#pragma once

#include <filesystem>
#include <string>

#include "core/nn/model_config.h"
#include "data/models/hugging_face.h"

namespace limbeck::data {

/// The architecture that folder/config.json describes; throws as HuggingFaceModel says.
nn::ModelConfig read_hugging_face_config(const std::filesystem::path& folder);

/// The text of a config.json for LlamaForCausalLM or MixtralForCausalLM; throws as export_hugging_face says.
std::string hugging_face_config(const nn::ModelConfig& config, const HuggingFaceExport& options);

}  // namespace limbeck::data
