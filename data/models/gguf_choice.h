// Which dtype each tensor of a GGUF file has, as llama.cpp chooses it when it quantises (llama_tensor_get_type_impl of
// llama-quant.cpp).
//
//     gguf_choice(name, config, family, DType::Q4_K).dtype          // Q6_K of an early layer's ffn_down in "Q4_K_M"
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/nn/model_config.h"
#include "data/models/families/family.h"
#include "data/models/gguf_names.h"

namespace limbeck::data {

struct GgufChoice {
  core::DType dtype = core::DType::F32;
  bool is_otherwise = false;  // because rows are not whole blocks of what would be chosen
};

/// `wanted` is what GgufExport::dtype says.
GgufChoice gguf_choice(const GgufName& name, const nn::ModelConfig& config, const Family& family, core::DType wanted);

/// general.file_type: llama_ftype of llama.h. Throws for a dtype that is not written.
std::uint32_t gguf_file_type(core::DType dtype);

}  // namespace limbeck::data
