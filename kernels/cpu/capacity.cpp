#include "kernels/capacity.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {

/// f(begin, end, room) of each sequence's tokens, and an expert's room in it.
template <class F>
void for_each_sequence(const std::int32_t* sequence, const CapacityShape& shape, double factor, F f) {
  for (std::int64_t begin = 0, end = 0; begin < shape.tokens; begin = end) {
    while (end < shape.tokens && sequence[end] == sequence[begin]) ++end;
    f(begin, end,
      std::ceil(factor * static_cast<double>((end - begin) * shape.selected) / static_cast<double>(shape.experts)));
  }
}

}  // namespace

template <class D>
void limit_capacity(const D&, const std::int32_t* selection, const std::int32_t* sequence, std::int32_t* kept,
                    const CapacityShape& shape, double factor) {
  for_each_sequence(sequence, shape, factor, [&](std::int64_t begin, std::int64_t end, double room) {
    std::vector<double> taken(static_cast<std::size_t>(shape.experts), 0.0);
    for (std::int64_t a = begin * shape.selected; a < end * shape.selected; ++a)
      kept[a] = taken[static_cast<std::size_t>(selection[a])]++ < room ? selection[a] : -1;
  });
}

template <class D, class T>
void choose_tokens(const D& cpu, const T* scores, const std::int32_t* sequence, std::int32_t* selection,
                   const CapacityShape& shape, double factor) {
  const std::int64_t experts = shape.experts;
  std::fill_n(selection, shape.tokens * experts, -1);
  for_each_sequence(sequence, shape, factor, [&](std::int64_t begin, std::int64_t end, double room) {
    const auto taken = static_cast<std::int64_t>(std::min(room, static_cast<double>(end - begin)));
    parallel_for(cpu, experts, 1 + (1 << 12) / (end - begin), [=](std::int64_t first, std::int64_t last) {
      std::vector<std::int64_t> tokens(static_cast<std::size_t>(end - begin));
      for (std::int64_t e = first; e < last; ++e) {
        const auto comes_before = [=](std::int64_t a, std::int64_t b) {
          const T x = scores[a * experts + e], y = scores[b * experts + e];
          if (std::isnan(x) != std::isnan(y)) return std::isnan(y);
          return x > y || (!(y > x) && a < b);
        };
        std::iota(tokens.begin(), tokens.end(), begin);
        std::nth_element(tokens.begin(), tokens.begin() + taken, tokens.end(), comes_before);
        for (std::int64_t i = 0; i < taken; ++i)
          selection[tokens[static_cast<std::size_t>(i)] * experts + e] = static_cast<std::int32_t>(e);
      }
    });
  });
}

template <class D>
void count_untaken(const D&, const std::int32_t* selection, std::int64_t tokens, std::int64_t selected,
                   std::int64_t* count) {
  *count = 0;
  for (std::int64_t t = 0; t < tokens; ++t)
    *count +=
        std::all_of(selection + t * selected, selection + (t + 1) * selected, [](std::int32_t e) { return e < 0; }) ? 1
                                                                                                                    : 0;
}

template void limit_capacity(const Cpu&, const std::int32_t*, const std::int32_t*, std::int32_t*, const CapacityShape&,
                             double);
template void choose_tokens(const Cpu&, const float*, const std::int32_t*, std::int32_t*, const CapacityShape&, double);
template void choose_tokens(const Cpu&, const double*, const std::int32_t*, std::int32_t*, const CapacityShape&,
                            double);
template void count_untaken(const Cpu&, const std::int32_t*, std::int64_t, std::int64_t, std::int64_t*);

}  // namespace limbeck::kernels
