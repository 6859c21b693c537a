#include "kernels/index_check.h"

namespace limbeck::kernels {

template <class D>
std::int64_t first_outside(const D&, const std::int32_t* index, std::int64_t n, std::int64_t limit,
                           std::int64_t first) {
  for (std::int64_t i = 0; i < n; ++i)
    if (index[i] < first || index[i] >= limit) return i;
  return -1;
}

template std::int64_t first_outside(const Cpu&, const std::int32_t*, std::int64_t, std::int64_t, std::int64_t);

}  // namespace limbeck::kernels
