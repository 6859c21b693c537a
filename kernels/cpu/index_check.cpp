#include "kernels/index_check.h"

namespace limbeck::kernels {

template <class D, class I>
void note_outside(const D&, const I* index, std::int64_t n, std::int64_t first, std::int64_t limit, std::int64_t check,
                  NotedIndex* noted) {
  const std::int64_t bad = first_outside(index, n, first, limit);
  if (bad >= 0 && noted->check < 0) *noted = {check, bad, index[bad]};
}

template void note_outside(const Cpu&, const std::int32_t*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                           NotedIndex*);
template void note_outside(const Cpu&, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                           NotedIndex*);

}  // namespace limbeck::kernels
