// What attention() and ring_attention() share: calls of the kernels, and how the tape has them.
#pragma once

#include <functional>
#include <optional>

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

/// Adds to the sums what `dout` gives to them.
using AttentionBackward = std::function<void(const Tensor& q, const Tensor& k, const Tensor& v, const Attended& of,
                                             const Tensor& dout, AttentionSums& sums)>;
/// What was found as a value of the tape. `layout` is of the rank's own tokens.
Var recorded(Tape& tape, const char* op, const Var& q, const Var& k, const Var& v, const std::optional<Var>& sinks,
             const Attended& found, const AttentionShape& shape, const AttentionLayout& layout,
             AttentionBackward backward);

}  // namespace limbeck::core
