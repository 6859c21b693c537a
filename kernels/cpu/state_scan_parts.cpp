#include <algorithm>
#include <vector>

#include "kernels/cpu/state_scan.h"

namespace limbeck::kernels {

template <class D, class T>
void state_scan_parts(const D& cpu, const ScanProblem& p, const ScanInputs<T>& in, const T* dy, Acc<T>* memory,
                      Acc<T>* parts) {
  using namespace scan;
  using A = Acc<T>;
  const Chunks chunks(p);
  const Room<A> room(p, memory);
  make_steps(cpu, p, chunks.chunks, in, room);
  if (dy == nullptr)
    make_states<T>(cpu, p, chunks, in, room, nullptr);
  else
    make_after<T>(cpu, p, chunks, in, dy, room, nullptr);
  const std::int64_t elements = p.width * p.state_width;
  for_each_task(cpu, std::ssize(chunks.runs) * p.num_heads, [&](std::int64_t task) {
    const ChunkRun& run = chunks.runs[task / p.num_heads];
    const std::int64_t head = task % p.num_heads;
    A* const part = parts + (p.sequences.slots[run.tokens.sequence] * p.num_heads + head) * (elements + 1);
    if (dy == nullptr && run.has_slot_behind)
      write_state(p, room.state(chunks.chunks[run.end - 1].behind, head), part);
    if (dy != nullptr && run.has_slot_before)
      write_state(p, room.state(chunks.chunks[run.first].before, head), part);
    if (!run.has_slot_behind) return;
    A sum = 0;
    for (std::int64_t i = run.first; i < run.end; ++i)
      sum += *room.sum(head, chunks.chunks[i].begin + chunks.chunks[i].count - 1);
    part[elements] = run.has_slot_before ? exponential(sum) : A(0);
  });
}

template <class D, class A>
void carry_states(const D& cpu, const ScanChains& chains, bool backwards, const A* parts, const ScanProblem& p,
                  std::int64_t first, std::int64_t count, A* states) {
  const std::int64_t elements = p.width * p.state_width;
  for_each_task(
      cpu, chains.number * p.num_heads, [&] { return std::vector<A>(static_cast<std::size_t>(elements)); },
      [&](std::int64_t task, std::vector<A>& state) {
        const std::int64_t chain = task / p.num_heads, head = task % p.num_heads;
        const std::int64_t begin = chains.offsets[chain], end = chains.offsets[chain + 1];
        std::fill(state.begin(), state.end(), A(0));
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t row = chains.rows[backwards ? end - 1 - (i - begin) : i];
          if (row >= first && row < first + count)
            std::copy_n(state.data(), elements, states + ((row - first) * p.num_heads + head) * elements);
          const A* const part = parts + (row * p.num_heads + head) * (elements + 1);
          const A left = part[elements];
          A* const to = state.data();
#pragma omp simd
          for (std::int64_t e = 0; e < elements; ++e) to[e] = part[e] + left * to[e];
        }
      });
}

#define LIMBECK_INSTANTIATE(T) \
  template void state_scan_parts(const Cpu&, const ScanProblem&, const ScanInputs<T>&, const T*, Acc<T>*, Acc<T>*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

#define LIMBECK_INSTANTIATE_CARRY(A)                                                                           \
  template void carry_states(const Cpu&, const ScanChains&, bool, const A*, const ScanProblem&, std::int64_t, \
                             std::int64_t, A*);
LIMBECK_INSTANTIATE_CARRY(float)
LIMBECK_INSTANTIATE_CARRY(double)

}  // namespace limbeck::kernels
