#include "kernels/capacity.h"

#include <cmath>
#include <vector>

namespace limbeck::kernels {

template <class D>
void limit_capacity(const D&, const std::int32_t* selection, const std::int32_t* sequence, std::int32_t* kept,
                    const CapacityShape& shape, double factor) {
  const auto [tokens, experts, selected] = shape;
  for (std::int64_t begin = 0, end = 0; begin < tokens; begin = end) {
    while (end < tokens && sequence[end] == sequence[begin]) ++end;
    const double room =
        std::ceil(factor * static_cast<double>((end - begin) * selected) / static_cast<double>(experts));
    std::vector<double> taken(static_cast<std::size_t>(experts), 0.0);
    for (std::int64_t a = begin * selected; a < end * selected; ++a)
      kept[a] = taken[static_cast<std::size_t>(selection[a])]++ < room ? selection[a] : -1;
  }
}

template void limit_capacity(const Cpu&, const std::int32_t*, const std::int32_t*, std::int32_t*, const CapacityShape&,
                             double);

}  // namespace limbeck::kernels
