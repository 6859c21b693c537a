// Widths of heads that attention's kernels for the tensor cores are compiled for; others, as long as they are whole
// chunks of 16 bytes, are the next wider ones with zeros behind them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention.h"

namespace limbeck::kernels {

template <int Width, int ValueWidth>
struct HeadWidths {
  static constexpr int width = Width, value_width = ValueWidth;
};

/// f(HeadWidths) for those of the problem, which are at most 256.
template <class F>
void with_widths(const AttentionProblem& p, F&& f) {
  const std::int64_t wider = std::max(p.width, p.value_width);
  if (wider <= 64)
    f(HeadWidths<64, 64>());
  else if (wider <= 96)
    f(HeadWidths<96, 96>());
  else if (wider <= 128)
    f(HeadWidths<128, 128>());
  else if (p.width <= 192 && p.value_width <= 128)
    f(HeadWidths<192, 128>());
  else if (wider <= 192)
    f(HeadWidths<192, 192>());
  else
    f(HeadWidths<256, 256>());
}

}  // namespace limbeck::kernels
