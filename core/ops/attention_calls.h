// What attention() and ring_attention() share: calls of the kernels, and where gradients are added up.
#pragma once

#include "core/ops/attention.h"

namespace limbeck::core {

/// Throws where an argument of attention() does not fit the others.
void check_attention(const Var& q, const Var& k, const Var& v, const AttentionShape& shape,
                     const AttentionLayout& layout, const std::optional<Var>& sinks);

struct Attended {
  Tensor out, logsumexp;  // [Tq,H*Dv], [Tq,H]
};
/// `sinks` [H] may be undefined.
Attended attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                const AttentionLayout& layout, const Tensor& sinks);

/// Sums of the gradients of q, k and v, of the sums' dtype.
struct AttentionSums {
  Tensor dq, dk, dv;
};
/// Adds to the sums. `of` is what was found of all keys, these and others.
void attend_backward(const Tensor& q, const Tensor& k, const Tensor& v, const Attended& of, const Tensor& dout,
                     const AttentionShape& shape, const AttentionLayout& layout, AttentionSums& sums);

/// Where the kernel adds a gradient up: in the slot, cleared if it holds nothing yet, or apart from it, where there is
/// none or where sums are of another dtype.
Tensor open_sum(const SlotPtr& slot, const Tensor& like);
/// The sum is complete.
void close_sum(const SlotPtr& slot, const Tensor& sum, const Tensor& like);

/// Gives a step of attention the weight part of its sinks, where they take a gradient.
void add_sinks_part(Tape::Step& step, const std::optional<Var>& sinks, const Attended& of, const SlotPtr& out_slot,
                    const AttentionShape& shape, const AttentionLayout& layout);

}  // namespace limbeck::core
