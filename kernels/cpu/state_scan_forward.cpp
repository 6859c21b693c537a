#include <algorithm>

#include "kernels/cpu/state_scan.h"

namespace limbeck::kernels {
namespace scan {
namespace {

template <class T>
struct Forward {
  const ScanProblem& problem;
  const ScanInputs<T>& in;
  const Room<Acc<T>>& room;
  T* y;
};

/// Of a thread.
struct Memory {
  Scratch b, c, columns, scores, x, panels, weighted, sums;
};

/// The output of a chunk's tokens, for the heads of a group: y_i = (Σ_j<=i w_ij x_j) + from_begin_i state c_i + skip
/// x_i with w_ij = (c_i b_j) decay_ij step_j, as products of matrices.
template <class T>
void run_chunk(const Forward<T>& f, const attention::Tiles<Acc<T>>& tiles, const Chunk& chunk, std::int64_t group,
               Memory& memory) {
  using A = Acc<T>;
  const ScanProblem& p = f.problem;
  const std::int64_t count = chunk.count, rows = padded(count), n = p.state_width, pitch = padded(n);
  const std::int64_t panel_step = rows * block, step = p.num_groups * n;
  const std::int64_t first = (chunk.begin * p.num_groups + group) * n;
  A* const b = memory.b.get<A>(rows * pitch);
  A* const c = memory.c.get<A>(rows * pitch);
  A* const columns = memory.columns.get<A>(rows * n);
  A* const scores = memory.scores.get<A>(rows * rows);
  A* const x = memory.x.get<A>(rows * p.padded_width());
  A* const panels = memory.panels.get<A>(rows * p.padded_width());
  A* const weighted = memory.weighted.get<A>(rows * rows);
  A* const sums = memory.sums.get<A>(panel_step);

  widen_rows(f.in.b + first, step, count, n, b);
  widen_rows(f.in.c + first, step, count, n, c);
  panels_of_columns(b, rows, n, columns);
  for (std::int64_t j = 0; j < count; j += block)  // c_i b_j for i from j on
    tiles.multiply({c + j * pitch, pitch}, count - j, columns + j * n, n, false, scores + j * rows + j * block);

  for (std::int64_t head = group * p.group_heads(); head < (group + 1) * p.group_heads(); ++head) {
    const Decays<A> decays(f.room, chunk, head);
    const std::int64_t at = (chunk.begin * p.num_heads + head) * p.width;
    widen_rows(f.in.x + at, p.num_heads * p.width, count, p.width, x);
    panels_of_rows<A>(x, rows, p.width, nullptr, panels);
    for (std::int64_t first_j = 0; first_j < count; first_j += block)
      for (std::int64_t i = first_j; i < count; ++i) {
        const A* const from = scores + first_j * rows + i * block;
        A* const to = weighted + first_j * rows + i * block;
        const A sum = decays.sum[i];
#pragma omp simd
        for (std::int64_t j = 0; j < block; ++j) {
          const A between = sum - decays.sum[first_j + j];
          const A weight = exponential(between > 0 ? A(0) : between) * decays.step[first_j + j];
          to[j] = first_j + j <= i ? from[j] * weight : A(0);
        }
      }
    const A skip = f.in.skip[head];
    for (std::int64_t panel = 0; panel < p.padded_width() / block; ++panel) {
      const bool add = chunk.before >= 0;
      if (add) {
        tiles.multiply({c, pitch}, count, f.room.state(chunk.before, head) + panel * n * block, n, false, sums);
        for (std::int64_t i = 0; i < count; ++i)
#pragma omp simd
          for (std::int64_t e = 0; e < block; ++e) sums[i * block + e] *= decays.from_begin[i];
      }
      for (std::int64_t i = 0; i < count; i += block)
        tiles.multiply({weighted + i * block, block, 1, panel_step}, std::min(block, count - i),
                       panels + panel * panel_step, std::min(i + block, count), add, sums + i * block);
      for (std::int64_t i = 0; i < count; ++i) {
        T* const to = f.y + at + i * p.num_heads * p.width + panel * block;
        const A* const sum = sums + i * block;
        const A* const own = panels + panel * panel_step + i * block;
        for (std::int64_t e = 0; e < std::min(block, p.width - panel * block); ++e)
          to[e] = as<T>(sum[e] + skip * own[e]);
      }
    }
  }
}

/// A sequence of a few tokens and a head, whose state [P,N] is read and written for each.
template <class T>
void run_tokens(const Forward<T>& f, std::int64_t sequence, std::int64_t head, Acc<T>* state, Memory& memory) {
  using A = Acc<T>;
  const ScanProblem& p = f.problem;
  const Sequences& s = p.sequences;
  const std::int64_t n = p.state_width, group = head / p.group_heads();
  A* const b = memory.b.get<A>(n);
  A* const c = memory.c.get<A>(n);
  const StepLimits<A> limits(p);
  const A rate = decay_rate(f.in.a_log, head);
  for (std::int64_t t = s.offsets[sequence]; t < s.offsets[sequence + 1]; ++t) {
    if (t > s.offsets[sequence] && s.document[t] != s.document[t - 1]) std::fill_n(state, p.width * n, A(0));
    for (std::int64_t i = 0; i < n; ++i) {
      b[i] = as<A>(f.in.b[(t * p.num_groups + group) * n + i]);
      c[i] = as<A>(f.in.c[(t * p.num_groups + group) * n + i]);
    }
    const A step = limits.within(softplus(as<A>(f.in.dt[t * p.num_heads + head]) + f.in.dt_bias[head]));
    const A decay = exponential(step * rate);
    for (std::int64_t e = 0; e < p.width; ++e) {
      const std::int64_t at = (t * p.num_heads + head) * p.width + e;
      const A x = as<A>(f.in.x[at]), given = step * x;
      A* const row = state + e * n;
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t i = 0; i < n; ++i) {
        row[i] = decay * row[i] + given * b[i];
        sum += row[i] * c[i];
      }
      f.y[at] = as<T>(sum + f.in.skip[head] * x);
    }
  }
}

}  // namespace
}  // namespace scan

template <class D, class T>
void state_scan(const D& cpu, const ScanProblem& p, const ScanInputs<T>& in, Acc<T>* memory, Acc<T>* states, T* y) {
  using namespace scan;
  using A = Acc<T>;
  const Chunks chunks(p);
  const Room<A> room(p, memory);
  const Forward<T> forward{p, in, room, y};
  const attention::Tiles<A> tiles(cpu);
  make_steps(cpu, p, chunks.chunks, in, room);
  make_states(cpu, p, chunks, in, room, states);
  for_each_task(
      cpu, std::ssize(chunks.chunks) * p.num_groups, [] { return Memory(); },
      [&](std::int64_t task, Memory& own) {
        run_chunk(forward, tiles, chunks.chunks[task / p.num_groups], task % p.num_groups, own);
      });
  for_each_task(cpu, std::ssize(chunks.runs) * p.num_heads, [&](std::int64_t task) {
    const ChunkRun& run = chunks.runs[task / p.num_heads];
    const std::int64_t head = task % p.num_heads;
    if (run.has_slot_behind)
      write_state(p, room.state(chunks.chunks[run.end - 1].behind, head),
                  state_of(p, states, run.tokens.sequence, head));
  });
  for_each_task(
      cpu, std::ssize(chunks.few) * p.num_heads, [] { return Memory(); },
      [&](std::int64_t task, Memory& own) {
        const std::int64_t sequence = chunks.few[task / p.num_heads], head = task % p.num_heads;
        run_tokens(forward, sequence, head, state_of(p, states, sequence, head), own);
      });
}

#define LIMBECK_INSTANTIATE(T) \
  template void state_scan(const Cpu&, const ScanProblem&, const ScanInputs<T>&, Acc<T>*, Acc<T>*, T*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
