// What the formats of other programs can say of a model: Llama (every layer dense) or Mixtral (experts in every layer).
// A Hugging Face directory and a GGUF file are written as one of the two.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/nn/model_config.h"

namespace limbeck::data {

/// The first thing of a model that neither architecture has, as "FIELD is X, expected Y": layers of both kinds,
/// selected weights that do not sum to 1, a scale of the experts' outputs, or shared experts. Nothing where one of them
/// says all. The only place that knows: exports refuse by it, and a run is told of it before it is trained.
inline std::optional<std::string> not_as_llama_or_mixtral(const nn::ModelConfig& config) {
  std::int64_t num_moe = 0;
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) num_moe += config.is_moe_layer(layer) ? 1 : 0;
  if (num_moe == 0) return std::nullopt;
  const nn::MoeConfig& moe = config.moe;
  if (num_moe < config.num_layers)
    return fmt::format("moe.dense_layers: {} of {} layers have experts, expected none (Llama) or all (Mixtral)",
                       num_moe, config.num_layers);
  if (!moe.renormalise || moe.weight_scale != 1.0)
    return fmt::format("moe.renormalise is {} and moe.weight_scale {}, expected true and 1 as in Mixtral",
                       moe.renormalise, moe.weight_scale);
  if (moe.shared_width > 0)
    return fmt::format("moe.shared_width is {}, expected 0: Mixtral has no shared experts", moe.shared_width);
  return std::nullopt;
}

/// Whether the model has experts. Throws, in one line that begins with `what`, what neither architecture has.
inline bool has_experts_as_mixtral(const nn::ModelConfig& config, std::string_view what) {
  if (const auto beyond = not_as_llama_or_mixtral(config)) core::fail("{}: {}", what, *beyond);
  return config.is_moe_layer(0);
}

}  // namespace limbeck::data
