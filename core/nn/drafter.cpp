#include "core/nn/drafter.h"

namespace limbeck::nn {

Tensor Drafter::last_rows(const Tensor& hidden, const Batch& batch, std::span<const std::size_t> sequences) {
  const std::int64_t count = hidden.shape()[0] > 0 ? std::ssize(sequences) : 0;
  Tensor last = Tensor::empty(hidden.memory(), hidden.dtype(), {count, hidden.shape()[1]});
  for (std::int64_t i = 0; i < count; ++i)
    last.rows(i, 1).copy_from(hidden.rows(batch.offsets_on_host[sequences[static_cast<std::size_t>(i)] + 1] - 1, 1));
  return last;
}

}  // namespace limbeck::nn
