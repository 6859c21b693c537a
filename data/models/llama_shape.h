// What the formats of other programs can say of a model: Llama (every layer dense) or Mixtral (experts in every layer).
#pragma once

#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "core/nn/model_config.h"

namespace limbeck::data {

/// Whether the model has experts. Throws, in one line that begins with `what`, for what neither architecture has:
/// layers of both kinds, selected weights that do not sum to 1, a scale of the experts' outputs, or shared experts.
inline bool has_experts_as_mixtral(const nn::ModelConfig& config, std::string_view what) {
  std::int64_t num_moe = 0;
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) num_moe += config.is_moe_layer(layer) ? 1 : 0;
  core::check(num_moe == 0 || num_moe == config.num_layers,
              "{}: {} of {} layers have experts, expected none (Llama) or all (Mixtral)", what, num_moe,
              config.num_layers);
  core::check(num_moe == 0 || (config.moe.renormalise && config.moe.weight_scale == 1.0),
              "{}: moe.renormalise is {} and moe.weight_scale {}, expected true and 1 as in Mixtral", what,
              config.moe.renormalise, config.moe.weight_scale);
  core::check(num_moe == 0 || config.moe.shared_width == 0,
              "{}: moe.shared_width is {}, expected 0: Mixtral has no shared experts", what, config.moe.shared_width);
  return num_moe > 0;
}

}  // namespace limbeck::data
