// What the metadata of a GGUF file says of its model, for the reader.
//
//     const GgufConfig read = read_gguf_config(file);
//     for (const GgufName& name : gguf_names(read.model, *read.family)) ...
#pragma once

#include <cstdint>
#include <string>

#include "core/nn/model_config.h"
#include "data/models/families/family.h"
#include "data/models/gguf.h"

namespace limbeck::data {

struct GgufConfig {
  const Family* family;
  nn::ModelConfig model;
  std::int64_t num_layers_behind = 0;  // the last that predict further tokens, and count in block_count
};

/// The family and the config that the metadata describes; throws as GgufModel says.
GgufConfig read_gguf_config(const GgufFile& file);

/// Whether a tensor is of the config, and no parameter: factors of frequencies.
bool is_of_config(const Family& family, const std::string& name);

}  // namespace limbeck::data
