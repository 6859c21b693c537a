// config.json of a Hugging Face model directory, for the reader and the exporter.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "core/nn/model_config.h"
#include "data/models/families/family.h"
#include "data/models/hugging_face.h"

namespace limbeck::data {

struct HuggingFaceConfig {
  const Family* family;
  nn::ModelConfig model;
  std::optional<ConfigFields> quantization = {};  // of weights (quantised/quantised.h)
};

/// What folder/config.json describes; throws as HuggingFaceModel says.
HuggingFaceConfig read_hugging_face_config(const std::filesystem::path& folder);
/// What a config.json of this text does; `where` names it in errors.
HuggingFaceConfig parse_hugging_face_config(const std::string& text, const std::string& where);

/// Its bos_token_id, where it has one of a vocabulary of this size.
std::optional<std::int64_t> read_bos_token(const std::filesystem::path& folder, std::int64_t vocabulary);

/// The text of a config.json of the first family that holds the model; throws as export_hugging_face says.
std::string hugging_face_config(const nn::ModelConfig& config, const HuggingFaceExport& options);

}  // namespace limbeck::data
