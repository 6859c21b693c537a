#include "core/nn/model_config.h"

#include <algorithm>

#include "core/error.h"

namespace limbeck::nn {

using core::fail_usage;

bool ModelConfig::is_moe_layer(std::int64_t layer) const {
  return moe.num_experts > 0 &&
         std::find(moe.dense_layers.begin(), moe.dense_layers.end(), layer) == moe.dense_layers.end();
}

void validate(const ModelConfig& config, const std::string& where) {
  const auto positive = [&](const char* field, std::int64_t value) {
    if (value <= 0) fail_usage("{}.{} is {}, expected a positive number", where, field, value);
  };
  positive("vocabulary", config.vocabulary);
  positive("width", config.width);
  positive("num_layers", config.num_layers);
  positive("num_heads", config.num_heads);
  positive("num_kv_heads", config.num_kv_heads);
  positive("head_width", config.head_width);
  positive("max_positions", config.max_positions);
  if (config.num_heads % config.num_kv_heads != 0)
    fail_usage("{}.num_kv_heads is {}, expected a divisor of num_heads = {}", where, config.num_kv_heads,
               config.num_heads);
  if (config.head_width % 2 != 0) fail_usage("{}.head_width is {}, expected an even number", where, config.head_width);
  if (!(config.norm_eps > 0)) fail_usage("{}.norm_eps is {}, expected a positive number", where, config.norm_eps);
  if (!(config.rope_base > 0)) fail_usage("{}.rope_base is {}, expected a positive number", where, config.rope_base);
  const MoeConfig& moe = config.moe;
  if (moe.num_experts < 0) fail_usage("{}.moe.num_experts is {}, expected 0 or more", where, moe.num_experts);
  if (moe.num_experts > 0) {
    positive("moe.expert_width", moe.expert_width);
    if (moe.experts_per_token < 1 || moe.experts_per_token > moe.num_experts)
      fail_usage("{}.moe.experts_per_token is {}, expected 1 to num_experts = {}", where, moe.experts_per_token,
                 moe.num_experts);
    for (const auto layer : moe.dense_layers)
      if (layer < 0 || layer >= config.num_layers)
        fail_usage("{}.moe.dense_layers names layer {}, expected 0 to {}", where, layer, config.num_layers - 1);
  }
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer)
    if (!config.is_moe_layer(layer)) {
      positive("mlp_width", config.mlp_width);
      break;
    }
}

ParameterCount count_parameters(const ModelConfig& c) {
  const std::int64_t table = c.vocabulary * c.width;
  const std::int64_t attention = 2 * c.width * c.head_width * (c.num_heads + c.num_kv_heads);
  ParameterCount count{c.width + table * (c.tied_head ? 1 : 2), c.width + table};
  for (std::int64_t layer = 0; layer < c.num_layers; ++layer) {
    const std::int64_t common = attention + 2 * c.width;
    std::int64_t total = common;
    std::int64_t active = common;
    if (c.is_moe_layer(layer)) {
      const std::int64_t expert = 3 * c.width * c.moe.expert_width;
      total += c.moe.num_experts * (expert + c.width);
      active += c.moe.experts_per_token * expert + c.moe.num_experts * c.width;
    } else {
      total += 3 * c.width * c.mlp_width;
      active += 3 * c.width * c.mlp_width;
    }
    count.total += total;
    count.active += active;
  }
  return count;
}

double forward_flops_per_token(const ModelConfig& c, std::int64_t sequence_length) {
  const double keys = static_cast<double>(sequence_length + 1) / 2;
  const double attention = 4 * static_cast<double>(c.num_layers * c.num_heads * c.head_width) * keys;
  return 2 * static_cast<double>(count_parameters(c).active) + attention;
}

double training_flops_per_token(const ModelConfig& config, std::int64_t sequence_length) {
  return 3 * forward_flops_per_token(config, sequence_length);
}

}  // namespace limbeck::nn
