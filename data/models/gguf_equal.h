// Whether a GGUF file holds the same tensor twice: a head that is the embedding, a copy of another layer's.
//
//     if (are_equal(file, file.tensors().at("token_embd.weight"), file.tensors().at("output.weight"))) ...
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>

#include "core/dtype.h"
#include "data/files/mapped_file.h"
#include "data/models/gguf.h"

namespace limbeck::data {

/// Whether two tensors are the same bytes, as far as so many runs of them, evenly spread, say.
inline bool are_equal(const GgufFile& file, const GgufTensor& a, const GgufTensor& b,
                      std::size_t most_runs = std::numeric_limits<std::size_t>::max()) {
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  const auto bytes = static_cast<std::size_t>(core::bytes_of(a.dtype, a.shape.numel()));
  constexpr std::size_t at_once = std::size_t{1} << 20U;
  const std::size_t num_runs = (bytes + at_once - 1) / at_once, apart = ((num_runs - 1) / most_runs + 1) * at_once;
  bool is_same = true;
  for (std::size_t first = 0; is_same && first < bytes; first += apart) {
    const std::size_t count = std::min(at_once, bytes - first);
    const std::byte *of_a = file.data(a) + first, *of_b = file.data(b) + first;
    is_same = std::memcmp(of_a, of_b, count) == 0;
    release_mapped({of_a, count});
    release_mapped({of_b, count});
  }
  return is_same;
}

}  // namespace limbeck::data
