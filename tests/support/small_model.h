// A model for runs that are written out and for steps that are cut in many ways, in a config and as numbers.
//
//     folder.write("job.textproto", small_mixture + job);
//     WrittenOut student(small_model(num_byte_tokens, /*num_experts=*/4), init_weights(...));
#pragma once

#include <cstdint>
#include <string>

#include "core/nn/model_config.h"

namespace limbeck::testing {

/// Of as many tokens as the tokenizer has.
inline const std::string small_mixture = R"(
model {
  width: 16 num_layers: 2 num_heads: 2 mlp_width: 20 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 12 }
}
)";

/// The same with any number of experts; none: of feed-forwards.
inline nn::ModelConfig small_model(std::int64_t vocabulary, std::int64_t num_experts) {
  nn::ModelConfig config{.vocabulary = vocabulary,
                         .width = 16,
                         .num_layers = 2,
                         .num_heads = 2,
                         .num_kv_heads = 2,
                         .head_width = 8,
                         .mlp_width = 20,
                         .max_positions = 64,
                         .moe = {}};
  if (num_experts > 0)
    config.moe = {.num_experts = num_experts, .experts_per_token = 2, .expert_width = 12, .dense_layers = {}};
  return config;
}

}  // namespace limbeck::testing
