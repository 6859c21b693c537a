// How a token is drawn from logits, and how drafts of another model are taken or replaced, so that what comes of them
// is distributed as if no draft had been.
//
//     std::int32_t next = sample(logits, options, place);
//
//     const Distribution q = distribution_of(draft_logits, options);          // speculative sampling of one token:
//     const std::int32_t draft = draw_draft(q, options, place);
//     const auto other = replacement(draft, q, distribution_of(logits, options), options, place);
//     const std::int32_t token = other.value_or(draft);
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace limbeck::nn {

struct SamplingOptions {
  double temperature = 0;  // 0: the most likely token
  std::int64_t top_k = 0;  // only the k most likely; 0: all
  double top_p = 1;        // only the fewest most likely whose probabilities sum to this
  std::uint64_t seed = 1;
  std::uint64_t text = 0;  // texts have random numbers of their own: key_of_text
};

/// One token from logits [V]: most likely ones first, ties by the lower index. `index` is the token's place in the
/// text: with the seed and the text's key it fixes the random number. Temperature applies before top_k and top_p, as in
/// Hugging Face's generate(). Throws, naming the place, where a logit is NaN or the greatest is not finite.
std::int32_t sample(std::span<const double> logits, const SamplingOptions& options, std::uint64_t index);

/// Where a token is drawn: as SamplingOptions::text and sample()'s index.
struct DrawPlace {
  std::uint64_t text = 0, index = 0;
};
/// What sample() gives of the first `count` of each row of logits [N,V], in the host's memory, side by side; -1 where
/// it would throw. Of float32 logits probabilities are summed to 1e-6 of them.
std::vector<std::int32_t> sample_rows(const core::Tensor& logits, std::int64_t count, const SamplingOptions& options,
                                      std::span<const DrawPlace> places);
/// The first `count` logits of one of them.
std::vector<double> row_of(const core::Tensor& logits, std::int64_t row, std::int64_t count);

/// No NaN, and the greatest is finite (-inf rules a token out).
bool have_maximum(std::span<const double> logits);
/// Throws sample()'s error where they have none.
void check_maximum(bool is_there, std::uint64_t index);

/// The tokens that may be drawn, by ascending id, and their probabilities, which sum to 1.
struct TokenProbability {
  std::int32_t token = 0;
  double probability = 0;
};
using Distribution = std::vector<TokenProbability>;

/// What sample() draws from, at a temperature above 0. The logits have a maximum.
Distribution distribution_of(std::span<const double> logits, const SamplingOptions& options);

/// sum over v of min(p, q), 0 to 1.
double overlap(const Distribution& p, const Distribution& q);

/// A draft of the token at a place.
std::int32_t draw_draft(const Distribution& q, const SamplingOptions& options, std::uint64_t index);
/// Of a draft that was drawn from q: it stays (none) with probability min(1, p/q), else the token that stands in its
/// place is drawn from max(0, p - q), normalised. So the token is distributed by p, and the draft stays with
/// probability overlap(p, q) (Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
/// section 2.3; Chen et al. 2023, "Accelerating Large Language Model Decoding with Speculative Sampling").
std::optional<std::int32_t> replacement(std::int32_t draft, const Distribution& q, const Distribution& p,
                                        const SamplingOptions& options, std::uint64_t index);

}  // namespace limbeck::nn
