// Texts in sequences, whole and cut over ranks that are threads.
//
//     const Text text({{65, 130}, {64}});                                   // two documents, one
//     on_ranks(2, [&](nn::ContextComm& comm, const core::MemoryPtr& memory) {
//       const nn::Batch mine = nn::make_cut_batch(memory, text.columns(), {comm.rank(), comm.size()});
//       const core::Tensor own = rows_of(whole, mine);
//     });
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "core/nn/cut_batch.h"
#include "parallel/axes/communicators.h"
#include "parallel/axes/mesh.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::testing {

/// Sequences of documents of these lengths.
struct Text {
  std::vector<std::int32_t> tokens, position, document, sequence;
  std::vector<std::int64_t> index, offsets = {0};

  explicit Text(const std::vector<std::vector<std::int32_t>>& sequences) {
    for (const auto& documents : sequences) {
      for (std::size_t d = 0; d < documents.size(); ++d)
        for (std::int32_t i = 0; i < documents[d]; ++i) {
          index.push_back(std::ssize(tokens));
          tokens.push_back(i);
          position.push_back(i);
          document.push_back(static_cast<std::int32_t>(d));
          sequence.push_back(static_cast<std::int32_t>(offsets.size() - 1));
        }
      offsets.push_back(std::ssize(tokens));
    }
  }
  nn::BatchColumns columns() const {
    return {.tokens = tokens,
            .targets = tokens,
            .position = position,
            .document = document,
            .sequence = sequence,
            .global_index = index,
            .sequence_offsets = offsets};
  }
};

/// Of rows [T,...] of the whole those that a batch has, in its memory.
inline core::Tensor rows_of(const core::Tensor& whole, const nn::Batch& batch) {
  core::Shape shape = whole.shape();
  shape[0] = batch.num_tokens();
  core::Tensor mine = core::Tensor::empty(batch.tokens.memory(), whole.dtype(), shape);
  for (std::int64_t i = 0; i < shape[0]; ++i)
    std::copy_n(whole.rows(batch.global_index.data<std::int64_t>()[i], 1).raw(), mine.rows(i, 1).bytes(),
                mine.rows(i, 1).mutable_raw());
  return mine;
}

/// On a rank of each thread, which share the same sequences.
inline void on_ranks(int ranks, const std::function<void(nn::ContextComm&, const core::MemoryPtr&)>& body) {
  run_ranks(ranks, [&](RankWorld& world) {
    const parallel::Mesh mesh(world.comm, parallel::parse_layout("cp" + std::to_string(ranks)));
    body(*parallel::make_communicators(mesh).context, core::Memory::cpu(1));
  });
}

}  // namespace limbeck::testing
