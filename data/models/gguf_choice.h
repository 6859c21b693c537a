// Which dtype each tensor of a GGUF file has, as llama.cpp chooses it when it quantises (llama_tensor_get_type_impl of
// llama-quant.cpp).
//
//     gguf_choice(name, config, family, DType::Q4_K).dtype          // Q6_K of an early layer's ffn_down in "Q4_K_M"
#pragma once

#include <cstdint>
#include <map>
#include <string>

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

/// How a GGUF file holds a tensor of ours.
struct GgufKept {
  core::DType dtype = core::DType::F32;
  bool is_transposed = false;  // there
};
/// Of each tensor of a model, by our names. Throws a UsageError, in front of which stands `what`, where no GGUF file
/// holds the model.
std::map<std::string, GgufKept> gguf_kept(const nn::ModelConfig& config, core::DType wanted, const std::string& what);

/// general.file_type: llama_ftype of llama.h. Throws for a dtype that is not written.
std::uint32_t gguf_file_type(core::DType dtype);

}  // namespace limbeck::data
