#include "core/nn/pass.h"

#include "core/ops/aux_losses.h"
#include "core/ops/capacity.h"
#include "core/ops/ring_rows.h"

namespace limbeck::nn {
namespace {

double choice_factor(const RouterTraining& router) { return router.capacity_factor > 0 ? router.capacity_factor : 1; }

}  // namespace

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

Tensor Pass::choose_tokens(const Tensor& scores, std::int64_t experts_per_token) const {
  const double factor = choice_factor(router);
  if (context == nullptr) return core::choose_tokens(scores, batch.sequence, experts_per_token, factor);
  const Tensor whole = core::whole_rows(scores, *batch.ring, *context);
  return core::own_rows(core::choose_tokens(whole, batch.ring->sequence, experts_per_token, factor), *batch.ring,
                        context->rank());
}

std::int64_t Pass::most_chosen(const Tensor& selection, std::int64_t experts_per_token) const {
  const std::int64_t tokens = batch.ring != nullptr ? batch.ring->sequence.numel() : batch.num_tokens();
  // Each sequence's share is rounded up for each expert.
  const double most = choice_factor(router) * static_cast<double>(tokens * experts_per_token) +
                      static_cast<double>(batch.num_sequences() * selection.shape()[1]);
  return most < static_cast<double>(selection.numel()) ? static_cast<std::int64_t>(most) : selection.numel();
}

Var Pass::attend(Tape& tape, const Var& q, const Var& k, const Var& v, const core::AttentionShape& shape,
                 const std::optional<Var>& sinks) const {
  return context != nullptr ? core::ring_attention(tape, q, k, v, shape, batch.ring, *context, sinks)
                            : core::attention(tape, q, k, v, shape, attention, sinks);
}

}  // namespace limbeck::nn
