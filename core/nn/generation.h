// Text from a model, token by token, with a KV cache or without.
//
//     SamplingOptions options{.temperature = 0.8, .top_k = 40, .top_p = 0.95, .seed = 1};
//     std::vector<std::int32_t> ids = generate(model, prompt, {.max_tokens = 64, .sampling = options, .stop = {0}});
//
// Of a model that is cut, every rank calls generate(). The ranks of the first tensor group run the tokens together;
// those with other data follow with none of their own, so that all take the same number of steps.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/nn/transformer.h"

namespace limbeck::nn {

struct SamplingOptions {
  double temperature = 0;  // 0: the most likely token
  std::int64_t top_k = 0;  // only the k most likely; 0: all
  double top_p = 1;        // only the fewest most likely whose probabilities sum to this
  std::uint64_t seed = 1;
};

/// One token from logits [V]: most likely ones first, ties by the lower index. `index` is the token's place in the
/// text: with the seed it fixes the random number. Temperature applies before top_k and top_p, as in Hugging Face's
/// generate(). Throws, naming the place, where a logit is NaN or the greatest is not finite.
std::int32_t sample(std::span<const double> logits, const SamplingOptions& options, std::uint64_t index);

struct GenerateOptions {
  std::int64_t max_tokens = 64;
  SamplingOptions sampling = {};
  std::int64_t valid_vocabulary = -1;   // tokens from here on are padding, never chosen; -1: none is
  std::vector<std::int32_t> stop = {};  // a token that ends the text; it is not returned
  bool use_cache = true;
  bool is_first_rank = true;  // of the batch group
  std::function<void(std::int32_t)> on_token = {};
};

/// The continuation of `prompt` (at least one token; ignored on other ranks than the first of the batch group); the
/// same on every rank. The first rank's prompt and max_tokens count. Every rank throws alike: where the two exceed the
/// model's positions, and where logits are not finite.
std::vector<std::int32_t> generate(const Transformer& model, std::span<const std::int32_t> prompt,
                                   const GenerateOptions& options);

}  // namespace limbeck::nn
