// What the experts of a model do on a sample: how many tokens come to each, with what weight, and how much they give.
//
//     std::vector<ExpertUse> use = expert_use(teacher, batch, *comms.batch, layers);
//     use[layer].routed_norm(e);                       // by which experts are pruned
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/nn/transformer.h"

namespace limbeck::nn {

/// Of the experts [E] of one layer; empty for a dense one. Sums over the tokens of the batches of all ranks.
struct ExpertUse {
  double tokens = 0;           // in all
  std::vector<double> load;    // tokens that are routed to an expert
  std::vector<double> weight;  // by which its output counts, with MoeConfig::weight_scale
  std::vector<double> norm;    // of that weight times the length of its output
  std::vector<double> logits;  // [E,E] of two experts' router logits, multiplied: over all tokens, biases aside
  double shared_gate = 0;      // of sigmoids, where the shared experts are behind a gate

  std::int64_t num_experts() const { return std::ssize(load); }
  /// REAP's score (Lasby et al. 2025, arXiv 2510.13999, eq. 9): mean of weight * |output| over the tokens that are
  /// routed to the expert; 0 where none is.
  double routed_norm(std::int64_t expert) const;
  /// Cosine of two experts' router logits over the tokens, by which M-SMoE groups experts (Li et al. 2023, arXiv
  /// 2310.01334, section 3.2); 0 where one of them is always 0.
  double similarity(std::int64_t a, std::int64_t b) const;
};

/// A whole model's (its experts all lie on this rank), of which `layers` run one after the other; one entry each.
std::vector<ExpertUse> expert_use(Transformer& model, const Batch& batch, BatchComm& ranks,
                                  std::span<const std::int64_t> layers);

}  // namespace limbeck::nn
