// A batch whose sequences are cut over ranks, so that causal attention is as much work on each: a sequence is dealt in
// 2 P pieces, and rank r has pieces r and 2 P - 1 - r, of which the one sees as much less as the other sees more.
//
//     Batch mine = make_cut_batch(memory, columns, {.rank = comms.context->rank(), .size = comms.context->size()});
#pragma once

#include <array>
#include <cstdint>

#include "core/nn/batch.h"
#include "core/slice.h"

namespace limbeck::nn {

/// Which of the ranks that a sequence is cut over.
struct ContextPlace {
  std::int64_t rank = 0;
  std::int64_t size = 1;
};

/// The tokens [first, first + count) of a sequence of `length` in the rank's earlier and later piece, which may be
/// empty.
std::array<core::Slice, 2> pieces_of(std::int64_t length, ContextPlace place);

/// Of the columns of whole sequences, which every rank has, those of the rank's tokens. What a token takes from others
/// of its document (its context, the tokens ahead) is of the whole. Global counts are those of the whole too.
/// `with_runs`: for models with layers of Mamba-2, which alone read RingLayout::runs.
Batch make_cut_batch(const MemoryPtr& memory, const BatchColumns& columns, ContextPlace place, bool with_runs = true);

}  // namespace limbeck::nn
