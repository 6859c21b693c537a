// Text from a model, token by token, with a KV cache or without; several texts at once, so that a pass over the weights
// gives each of them a token.
//
//     SamplingOptions options{.temperature = 0.8, .top_k = 40, .top_p = 0.95, .seed = 1};
//     std::vector<std::int32_t> ids = generate(model, prompt, {.max_tokens = 64, .sampling = options, .stop = {0}});
//     Generated all = generate_texts(model, prompts, {.max_tokens = 64, .at_once = 8});     // all.texts[i].tokens
//
// Speculative generation takes fewer passes. Something cheaper drafts what follows a text, and the model runs its last
// token and the drafts together. Layers that predict further tokens are one such: each draft stays that is what the
// model chooses there itself, and as what it chooses is a function of logits, seed and place, the tokens are the same,
// also of samples. Another model is the other: the likeliest tokens are the same again; of samples drafts stay by
// speculative sampling (core/nn/sampling.h), so that the tokens are others, of exactly the same distribution.
//
//     Generated all = generate_texts(teacher, prompts, {.draft = &student, .draft_tokens = 4});
//
// Of a model that is cut, every rank calls them; of a pipeline the last stage chooses. The ranks of the first tensor
// group run the tokens together; those with other data follow with none of their own, so that all take the same number
// of steps. Or the texts are dealt among those with other data, each of which runs some:
//
//     Generated all = generate_texts(model, prompts, {.at_once = 64, .share = data.rank(), .shares = data.size()});
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/nn/sampling.h"
#include "core/nn/transformer.h"

namespace limbeck::nn {

/// What tells a text's random numbers from others': a hash of its prompt. So a prompt goes on in the same way whatever
/// is beside it.
std::uint64_t key_of_text(std::span<const std::int32_t> prompt);

struct Continuation {
  std::vector<std::int32_t> tokens = {};
  bool is_stopped = false;                         // by a token of GenerateOptions::stop, or by ends_text
  std::int32_t stop_token = -1;                    // of those the one that did
  double seconds = 0;                              // from its first pass to its last, others' between them included
  std::int64_t num_drafted = 0, num_accepted = 0;  // drafts that the model ran, and those that stayed
  std::int64_t num_tried = 0;                      // those that no refused one stands before
  double sum_min = 0;                              // of tried ones that were drawn: overlap(p, q); on the first rank
  std::int64_t num_passes = 0;                     // that it went on by; its prompt's is none of them
};

struct GenerateOptions {
  std::int64_t max_tokens = 64;         // to add to each prompt
  bool fewer_where_full = false;        // as many as the model has positions for, where that is fewer
  SamplingOptions sampling = {};        // its text's key is each prompt's
  std::int64_t valid_vocabulary = -1;   // tokens from here on are padding, never chosen; -1: none is
  std::vector<std::int32_t> stop = {};  // a token that ends the text; it is not returned
  std::int64_t at_once = 1;             // most texts that advance together; another takes the place of one that ends
  /// Most tokens of prompts in a pass, so that the memory of its activations is bounded: several prompts share one, a
  /// longer prompt takes several. Without a cache a prompt is one piece.
  std::int64_t most_of_prompts = 2048;
  bool use_cache = true;
  bool speculative = false;  // with a cache, of a model with predictors
  /// Instead, a model of the same tokens that drafts, on the same ranks; with a cache.
  const Transformer* draft = nullptr;
  std::int64_t draft_tokens = 4;  // that it drafts at most before a pass
  /// Of the texts that advance together, `shares` ranks of the batch group run as many each, and this one those of this
  /// number; without drafts. A rank of another number than those follows.
  std::int64_t share = 0, shares = 1;
  std::function<void(std::size_t prompt, std::int32_t token)> on_token = {};
  std::function<void(std::size_t prompt, const Continuation&)> on_end = {};
  /// Asked of each token that is added, on every rank alike, in order; the text ends behind one of which it is true.
  std::function<bool(std::size_t prompt, std::int32_t token)> ends_text = {};
};

/// Tokens that were run through the model, and for how long.
struct Pace {
  std::int64_t tokens = 0;
  double seconds = 0;
};

struct Generated {
  std::vector<Continuation> texts = {};  // one a prompt
  // Of this rank:
  Pace prefill = {};  // tokens of prompts, and of texts that are run again
  Pace decode = {};   // tokens that were added, but for the first of each text; drafting included
};

/// The continuations of `prompts` (of at least one token each; those of ranks that run none are only counted, all
/// others have the same); the same on every rank. The first rank's prompts and max_tokens count. What is added to a
/// prompt does not depend on the others, but for the rounding of products with other numbers of rows, which a near-tie
/// may show. Every rank throws alike: where prompt and max_tokens exceed the model's positions, and where logits are
/// not finite. Where a text grows so long that other frequencies turn it (ModelConfig::long_context_from), it is run
/// again from its beginning, so that what follows is what the whole text gives.
Generated generate_texts(const Transformer& model, std::span<const std::vector<std::int32_t>> prompts,
                         const GenerateOptions& options);
/// Of one prompt.
std::vector<std::int32_t> generate(const Transformer& model, std::span<const std::int32_t> prompt,
                                   const GenerateOptions& options);

}  // namespace limbeck::nn
