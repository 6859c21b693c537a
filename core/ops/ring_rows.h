// Rows of tokens of sequences that are cut over ranks (core/ops/ring_attention.h), in the order of the whole sequences:
// for what looks at those and is small. Not differentiable.
//
//     const Tensor kept = own_rows(limit_capacity(whole_rows(selection, *ring, comm), ...), *ring, comm.rank());
#pragma once

#include "core/ops/ring_attention.h"

namespace limbeck::core {

/// Every rank's rows [T,...]. Collective.
Tensor whole_rows(const Tensor& rows, const RingLayout& ring, nn::ContextComm& comm);
/// A rank's rows of those.
Tensor own_rows(const Tensor& whole, const RingLayout& ring, std::int64_t rank);

}  // namespace limbeck::core
