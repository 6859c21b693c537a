// What the scan of states forward and backward have in common on a CPU: documents as chunks of at most 64 tokens, the
// steps, and states between chunks. Matrices lie in panels of 32 columns, as factors of kernels/cpu/attention_tiles.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/token_runs.h"
#include "kernels/exp.h"
#include "kernels/softplus.h"
#include "kernels/state_scan.h"

namespace limbeck::kernels::scan {

using attention::block, attention::Left, attention::padded;

static_assert(scan_chunk % block == 0);

/// Tokens [begin, begin + count) of a document.
struct Chunk {
  std::int64_t begin = 0, count = 0;
  std::int64_t before = -1, behind = -1;  // the states, by number; -1: none, which is 0 before and of no use behind
};

/// A document, or what there is of it: its chunks [first,end).
struct ChunkRun {
  TokenRun tokens;
  std::int64_t first = 0, end = 0;
  bool has_slot_before = false, has_slot_behind = false;
};

struct Chunks {
  std::vector<Chunk> chunks;
  std::vector<ChunkRun> runs;
  std::vector<std::int64_t> few;  // sequences that are run token by token

  explicit Chunks(const ScanProblem& p) {
    std::int64_t states = 0;
    const Sequences& s = p.sequences;
    for (const TokenRun& tokens : token_runs(s)) {
      const bool with_slot = s.slots != nullptr;
      const std::int64_t sequence_end = s.offsets[tokens.sequence + 1];
      if (with_slot && p.few_by_tokens && sequence_end - s.offsets[tokens.sequence] <= scan_few_tokens) {
        if (tokens.is_first) few.push_back(tokens.sequence);
        continue;
      }
      ChunkRun run{tokens, std::ssize(chunks), 0, with_slot && tokens.is_first,
                   with_slot && tokens.end == sequence_end};
      for (std::int64_t begin = tokens.begin; begin < tokens.end; begin += scan_chunk) {
        Chunk chunk{begin, std::min(scan_chunk, tokens.end - begin)};
        if (begin > tokens.begin)
          chunk.before = chunks.back().behind;
        else if (run.has_slot_before)
          chunk.before = states++;
        if (begin + chunk.count < tokens.end || run.has_slot_behind) chunk.behind = states++;
        chunks.push_back(chunk);
      }
      run.end = std::ssize(chunks);
      runs.push_back(run);
    }
  }
};

/// What lies in `room`, head by head: of each token its step and the sum of the decays' logarithms from its chunk's
/// first token up to it; and states, a panel [N,32] for every 32 channels.
template <class A>
struct Room {
  const ScanProblem& problem;
  A *steps, *sums, *first_state;

  Room(const ScanProblem& p, A* room)
      : problem(p), steps(room), sums(room + p.numbers()), first_state(room + 2 * p.numbers()) {}
  A* step(std::int64_t head, std::int64_t t) const { return steps + head * problem.sequences.tokens + t; }
  A* sum(std::int64_t head, std::int64_t t) const { return sums + head * problem.sequences.tokens + t; }
  A* state(std::int64_t number, std::int64_t head) const {
    return first_state + (number * problem.num_heads + head) * problem.state_elements();
  }
};

/// What steps are held within.
template <class A>
struct StepLimits {
  A least, most;
  explicit StepLimits(const ScanProblem& p) : least(static_cast<A>(p.least_step)), most(static_cast<A>(p.most_step)) {}
  A within(A step) const {
    const A high = step > most ? most : step;
    return high < least ? least : high;
  }
  bool hold(A step) const { return step >= least && step <= most; }
};

template <class A>
A decay_rate(const A* a_log, std::int64_t head) {
  return -exponential(a_log[head]);
}

/// Steps and sums of all chunks' tokens.
template <class T>
void make_steps(const Cpu& cpu, const ScanProblem& p, const std::vector<Chunk>& chunks, const ScanInputs<T>& in,
                const Room<Acc<T>>& room) {
  using A = Acc<T>;
  const StepLimits<A> limits(p);
  for_each_task(
      cpu, std::ssize(chunks), [&] { return std::vector<A>(static_cast<std::size_t>(p.num_heads)); },
      [&](std::int64_t i, std::vector<A>& row) {
        const std::int64_t begin = chunks[i].begin, end = begin + chunks[i].count;
        for (std::int64_t t = begin; t < end; ++t) {
          const T* const dt = in.dt + t * p.num_heads;
#pragma omp simd
          for (std::int64_t h = 0; h < p.num_heads; ++h) row[h] = limits.within(softplus(as<A>(dt[h]) + in.dt_bias[h]));
          for (std::int64_t h = 0; h < p.num_heads; ++h) *room.step(h, t) = row[h];
        }
        for (std::int64_t h = 0; h < p.num_heads; ++h) {
          const A rate = decay_rate(in.a_log, h);
          A sum = 0;
          for (std::int64_t t = begin; t < end; ++t) *room.sum(h, t) = sum += *room.step(h, t) * rate;
        }
      });
}

/// A state [P,N] as panels, and back.
template <class A>
void read_state(const ScanProblem& p, const A* from, A* panels) {
  for (std::int64_t c = 0; c < p.padded_width(); ++c)
    for (std::int64_t n = 0; n < p.state_width; ++n)
      panels[(c / block * p.state_width + n) * block + c % block] = c < p.width ? from[c * p.state_width + n] : A(0);
}
template <class A>
void write_state(const ScanProblem& p, const A* panels, A* to) {
  for (std::int64_t c = 0; c < p.width; ++c)
    for (std::int64_t n = 0; n < p.state_width; ++n)
      to[c * p.state_width + n] = panels[(c / block * p.state_width + n) * block + c % block];
}

/// The row of a sequence with a slot, and a head, in states [S,H,P,N].
template <class A>
A* state_of(const ScanProblem& p, A* states, std::int64_t sequence, std::int64_t head) {
  return states + (p.sequences.slots[sequence] * p.num_heads + head) * p.width * p.state_width;
}
/// That as panels; 0 of null.
template <class A>
void read_state_of(const ScanProblem& p, const A* states, std::int64_t sequence, std::int64_t head, A* panels) {
  if (states == nullptr)
    std::fill_n(panels, p.state_elements(), A(0));
  else
    read_state(p, state_of(p, states, sequence, head), panels);
}

/// Rows [count,width] of values, `step` apart, as rows [padded(count),padded(width)] of A, with zeros around them.
template <class T, class A>
void widen_rows(const T* from, std::int64_t step, std::int64_t count, std::int64_t width, A* to) {
  const std::int64_t pitch = padded(width);
  for (std::int64_t i = 0; i < padded(count); ++i, to += pitch) {
    const std::int64_t n = i < count ? width : 0;
    for (std::int64_t c = 0; c < n; ++c) to[c] = as<A>(from[i * step + c]);
    std::fill(to + n, to + pitch, A(0));
  }
}

/// Rows as a right factor whose terms they are: panels [rows,32] for 32 columns each, row i times weight[i].
template <class A>
void panels_of_rows(const A* rows, std::int64_t num_rows, std::int64_t width, const A* weight, A* panels) {
  for (std::int64_t panel = 0; panel < padded(width) / block; ++panel)
    for (std::int64_t i = 0; i < num_rows; ++i) {
      const A w = weight == nullptr ? A(1) : weight[i];
#pragma omp simd
      for (std::int64_t c = 0; c < block; ++c)
        panels[(panel * num_rows + i) * block + c] = rows[i * padded(width) + panel * block + c] * w;
    }
}

/// Rows as a right factor whose columns they are: panels [width,32] for 32 rows each.
template <class A>
void panels_of_columns(const A* rows, std::int64_t num_rows, std::int64_t width, A* panels) {
  alignas(64) A square[block * block];
  for (std::int64_t i = 0; i < num_rows; i += block)
    for (std::int64_t c = 0; c < padded(width); c += block) {
      attention::transpose(rows + i * padded(width) + c, padded(width), block, block, square, block);
      std::copy_n(square, std::min(block, width - c) * block, panels + (i / block * width + c) * block);
    }
}

/// to += factor from
template <class A>
void add_state(const A* from, A factor, std::int64_t n, A* to) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

/// Of the tokens of a chunk: their steps, the sums, and the decays from the chunk's beginning to them and from them to
/// its end. What is behind the chunk decays no more, and has no step.
template <class A>
struct Decays {
  alignas(64) A step[scan_chunk], sum[scan_chunk], from_begin[scan_chunk], to_end[scan_chunk];

  Decays(const Room<A>& room, const Chunk& chunk, std::int64_t head) {
    std::copy_n(room.step(head, chunk.begin), chunk.count, step);
    std::copy_n(room.sum(head, chunk.begin), chunk.count, sum);
    std::fill(step + chunk.count, step + scan_chunk, A(0));
    std::fill(sum + chunk.count, sum + scan_chunk, sum[chunk.count - 1]);
#pragma omp simd
    for (std::int64_t i = 0; i < scan_chunk; ++i) {
      from_begin[i] = exponential(sum[i]);
      to_end[i] = exponential(sum[scan_chunk - 1] - sum[i]);
    }
  }
  A whole() const { return from_begin[scan_chunk - 1]; }
};

template <class A>
struct SumRoom {
  Scratch rows, values, panels;
};

/// state(number_of(chunk), head) = Σ_i weight[i] rows_i values_i^T over a chunk's tokens i: what they leave behind, or
/// what gradients they have of the state before them. rows [T,G*N], values [T,H*P].
template <class T, class NumberOf, class Weigh>
void sum_chunks(const Cpu& cpu, const ScanProblem& p, const Chunks& chunks, const T* rows, const T* values,
                const Room<Acc<T>>& room, NumberOf&& number_of, Weigh&& weigh) {
  using A = Acc<T>;
  const attention::Tiles<A> tiles(cpu);
  const std::int64_t groups = p.num_groups, pitch = padded(p.state_width), width = p.padded_width();
  for_each_task(
      cpu, std::ssize(chunks.chunks) * groups, [] { return SumRoom<A>(); },
      [&](std::int64_t task, SumRoom<A>& memory) {
        const Chunk& chunk = chunks.chunks[task / groups];
        const std::int64_t group = task % groups, number = number_of(chunk), num_rows = padded(chunk.count);
        if (number < 0) return;
        A* const row = memory.rows.template get<A>(scan_chunk * pitch);
        A* const value = memory.values.template get<A>(scan_chunk * width);
        A* const panels = memory.panels.template get<A>(scan_chunk * width);
        widen_rows(rows + (chunk.begin * groups + group) * p.state_width, groups * p.state_width, chunk.count,
                   p.state_width, row);
        for (std::int64_t head = group * p.group_heads(); head < (group + 1) * p.group_heads(); ++head) {
          alignas(64) A weight[scan_chunk];
          weigh(Decays<A>(room, chunk, head), weight);
          widen_rows(values + (chunk.begin * p.num_heads + head) * p.width, p.num_heads * p.width, chunk.count, p.width,
                     value);
          panels_of_rows(value, num_rows, p.width, weight, panels);
          for (std::int64_t panel = 0; panel < width / block; ++panel)
            tiles.multiply(attention::Tiles<A>::transposed(row, pitch, row, pitch), p.state_width,
                           panels + panel * num_rows * block, chunk.count, false,
                           room.state(number, head) + panel * p.state_width * block);
        }
      });
}

/// The states between chunks, from what is before the runs on; that is 0 where `states` is null.
template <class T>
void make_states(const Cpu& cpu, const ScanProblem& p, const Chunks& chunks, const ScanInputs<T>& in,
                 const Room<Acc<T>>& room, const Acc<T>* states) {
  using A = Acc<T>;
  sum_chunks(
      cpu, p, chunks, in.b, in.x, room, [](const Chunk& chunk) { return chunk.behind; },
      [](const Decays<A>& decays, A* weight) {
#pragma omp simd
        for (std::int64_t i = 0; i < scan_chunk; ++i) weight[i] = decays.step[i] * decays.to_end[i];
      });
  for_each_task(cpu, std::ssize(chunks.runs) * p.num_heads, [&](std::int64_t task) {
    const ChunkRun& run = chunks.runs[task / p.num_heads];
    const std::int64_t head = task % p.num_heads;
    if (run.has_slot_before)
      read_state_of(p, states, run.tokens.sequence, head, room.state(chunks.chunks[run.first].before, head));
    for (std::int64_t i = run.first; i < run.end; ++i) {
      const Chunk& chunk = chunks.chunks[i];
      if (chunk.before < 0 || chunk.behind < 0) continue;
      add_state(room.state(chunk.before, head), exponential(*room.sum(head, chunk.begin + chunk.count - 1)),
                p.state_elements(), room.state(chunk.behind, head));
    }
  });
}

/// The gradients of states between chunks, from those of what the runs leave on, which are 0 where `dstates` is null.
template <class T>
void make_after(const Cpu& cpu, const ScanProblem& p, const Chunks& chunks, const ScanInputs<T>& in, const T* dy,
                const Room<Acc<T>>& after, const Acc<T>* dstates) {
  using A = Acc<T>;
  sum_chunks(
      cpu, p, chunks, in.c, dy, after, [](const Chunk& chunk) { return chunk.before; },
      [](const Decays<A>& decays, A* weight) { std::copy_n(decays.from_begin, scan_chunk, weight); });
  for_each_task(cpu, std::ssize(chunks.runs) * p.num_heads, [&](std::int64_t task) {
    const ChunkRun& run = chunks.runs[task / p.num_heads];
    const std::int64_t head = task % p.num_heads;
    if (run.has_slot_behind)
      read_state_of(p, dstates, run.tokens.sequence, head, after.state(chunks.chunks[run.end - 1].behind, head));
    for (std::int64_t i = run.end - 1; i >= run.first; --i) {
      const Chunk& chunk = chunks.chunks[i];
      if (chunk.before < 0 || chunk.behind < 0) continue;
      add_state(after.state(chunk.behind, head), exponential(*after.sum(head, chunk.begin + chunk.count - 1)),
                p.state_elements(), after.state(chunk.before, head));
    }
  });
}

}  // namespace limbeck::kernels::scan
