// Sequences as runs of tokens that go on from each other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/sequences.h"

namespace limbeck::kernels {

/// Tokens [begin,end) of one document, or some of them.
struct TokenRun {
  std::int64_t begin = 0, end = 0;
  std::int64_t sequence = 0;
  bool is_first = false;  // its document is the sequence's first

  std::int64_t count() const { return end - begin; }
};

/// The documents of sequences [first,end).
inline std::vector<TokenRun> token_runs(const Sequences& s) {
  std::vector<TokenRun> runs;
  for (std::int64_t n = 0; n < s.number; ++n)
    for (std::int64_t begin = s.offsets[n], end = begin; begin < s.offsets[n + 1]; begin = end) {
      while (end < s.offsets[n + 1] && s.document[end] == s.document[begin]) ++end;
      runs.push_back({begin, end, n, begin == s.offsets[n]});
    }
  return runs;
}

}  // namespace limbeck::kernels
