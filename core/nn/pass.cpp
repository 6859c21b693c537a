#include "core/nn/pass.h"

#include "core/ops/aux_losses.h"
#include "core/ops/capacity.h"
#include "core/ops/ring_rows.h"

namespace limbeck::nn {

Tensor Pass::sequence_counts(const Tensor& selection, std::int64_t num_experts, core::DType dtype) const {
  Tensor counts = core::sequence_counts(selection, batch.sequence, batch.num_sequences(), num_experts, dtype);
  if (context != nullptr) context->sum(counts);
  return counts;
}

Tensor Pass::limit_capacity(const Tensor& selection, std::int64_t num_experts) const {
  const double factor = router.capacity_factor;
  if (context == nullptr) return core::limit_capacity(selection, batch.sequence, num_experts, factor);
  const Tensor whole = core::whole_rows(selection, *batch.ring, *context);
  return core::own_rows(core::limit_capacity(whole, batch.ring->sequence, num_experts, factor), *batch.ring,
                        context->rank());
}

Var Pass::attend(Tape& tape, const Var& q, const Var& k, const Var& v, const core::AttentionShape& shape,
                 const std::optional<Var>& sinks) const {
  return context != nullptr ? core::ring_attention(tape, q, k, v, shape, batch.ring, *context, sinks)
                            : core::attention(tape, q, k, v, shape, attention, sinks);
}

}  // namespace limbeck::nn
