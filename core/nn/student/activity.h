// How active the parts of a model are on a sample: neurons, heads, and channels of the residual stream.
//
//     const Activity activity = activity_of(teacher, batch, *comms.batch, layers);
//     Narrower narrow(teacher_reader, config, activity.most_active({.mlp_width = 768, .num_kv_heads = 2}));
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/nn/student/narrower.h"
#include "core/nn/transformer.h"

namespace limbeck::nn {

/// Sums over the tokens of the batches of all ranks (Minitron, Muralidharan et al. 2024, arXiv 2407.14679, section
/// 2.2).
struct Activity {
  std::vector<std::vector<double>> neurons;   // of |activation|, by layer [F]; none where it has experts
  std::vector<std::vector<double>> kv_heads;  // by layer [G]: of the lengths of what the query heads give that read it
  std::vector<double> channels;               // [C]: of |x|, the stream before each layer, over its root mean square

  /// What is kept for a result of these sizes (0: all); ties keep the lower one.
  KeptParts most_active(std::int64_t mlp_width, std::int64_t num_kv_heads, std::int64_t width) const;
};

/// Of `layers` of a whole model, which run one after the other.
Activity activity_of(const Transformer& model, const Batch& batch, BatchComm& ranks,
                     std::span<const std::int64_t> layers);

}  // namespace limbeck::nn
