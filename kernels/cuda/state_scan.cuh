// What the scan of states forward and backward have in common on a GPU: chunks of 64 tokens of a sequence, whose
// documents are told apart by masks, and products of 64 x 64 by 16 x 16 threads of 4 x 4 results.
// Its names are apart from those of the CPU, which another library has.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/grid.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/state_scan.h"

namespace limbeck::kernels::cuda_scan {

constexpr int chunk_tokens = static_cast<int>(scan_chunk), tile = 64;
constexpr int threads_x = 16, part = 4, terms_at_once = 16;
constexpr unsigned scan_threads = threads_x * threads_x;
static_assert(chunk_tokens == tile && threads_x * part == tile);

/// Tokens [begin, begin + count) of a sequence.
struct Chunk {
  std::int64_t begin;
  int count;
  std::int64_t sequence;
  std::int64_t before, behind;  // the states, by number; -1: none
};

/// A sequence's chunks: number first_chunk on; none of one that is run token by token. Its states are number
/// first_state on.
struct ChunkedSequence {
  std::int64_t begin = 0, count = 0, sequence = 0, first_chunk = 0, first_state = 0;

  __device__ std::int64_t num_chunks() const { return (count + scan_chunk - 1) / scan_chunk; }
  __device__ Chunk chunk(const ScanProblem& p, std::int64_t k) const {
    const std::int64_t left = count - k * scan_chunk;
    Chunk chunk{begin + k * scan_chunk, static_cast<int>(left < scan_chunk ? left : scan_chunk), sequence, -1, -1};
    if (p.sequences.slots != nullptr) {
      chunk.before = first_state + k;
      chunk.behind = chunk.before + 1;
    } else {
      if (k > 0) chunk.before = first_state + k - 1;
      if (left > scan_chunk) chunk.behind = first_state + k;
    }
    return chunk;
  }
};

__device__ inline bool is_of_few(const ScanProblem& p, std::int64_t count) {
  return p.sequences.slots != nullptr && p.few_by_tokens && count <= scan_few_tokens;
}

/// f(sequence) for each that is in chunks, until it says true.
template <class F>
__device__ void for_each_sequence(const ScanProblem& p, F&& f) {
  ChunkedSequence s;
  for (s.sequence = 0; s.sequence < p.sequences.number; ++s.sequence) {
    s.begin = p.sequences.offsets[s.sequence];
    s.count = p.sequences.offsets[s.sequence + 1] - s.begin;
    if (s.count == 0 || is_of_few(p, s.count)) continue;
    if (f(s)) return;
    s.first_chunk += s.num_chunks();
    s.first_state += s.num_chunks() + (p.sequences.slots != nullptr ? 1 : -1);
  }
}

/// Chunks there may be at most.
inline std::int64_t most_chunks(const ScanProblem& p) {
  return p.sequences.tokens / scan_chunk + std::min(p.sequences.number, p.sequences.tokens);
}

/// What lies in `room`: of each head and token the step and the sum of the decays' logarithms from its chunk's first
/// token up to it; of each chunk and head the decay over all of it; states [P,N].
template <class A>
struct Room {
  A *steps, *sums, *wholes, *states;

  Room(const ScanProblem& p, A* room)
      : steps(room), sums(room + p.numbers()), wholes(room + 2 * p.numbers()), states(room + 3 * p.numbers()) {}
  __device__ A* state(const ScanProblem& p, std::int64_t number, std::int64_t head) const {
    return states + (number * p.num_heads + head) * p.state_elements();
  }
};

/// log(1 + e^x)
template <class A>
__device__ A softplus_of(A x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}
template <class A>
__device__ A within_limits(const ScanProblem& p, A step) {
  const A most = static_cast<A>(p.most_step), least = static_cast<A>(p.least_step);
  const A high = step > most ? most : step;
  return high < least ? least : high;
}

/// A chunk and a head, as a block shares them. Tokens behind the chunk have no step and see nothing.
template <class A>
struct BlockChunk {
  Chunk chunk;
  A step[chunk_tokens], sum[chunk_tokens];
  int first[chunk_tokens];  // of the token's document in this chunk; -1: it goes on from before

  __device__ A decay(int later, int earlier) const {
    return later >= earlier && earlier >= first[later] ? std::exp(sum[later] - sum[earlier]) : A{0};
  }
  __device__ A from_begin(int i) const { return first[i] < 0 ? std::exp(sum[i]) : A{0}; }
  __device__ A to_end(int j) const { return j < chunk.count ? decay(chunk.count - 1, j) : A{0}; }
  __device__ A whole() const { return from_begin(chunk.count - 1); }
};

/// Finds chunk blockIdx.x; false where there is none. All threads of the block call it, and may read what it finds.
template <class A>
__device__ bool find_chunk(const ScanProblem& p, BlockChunk<A>& block) {
  if (threadIdx.x == 0) {
    block.chunk.count = 0;
    for_each_sequence(p, [&](const ChunkedSequence& s) {
      const std::int64_t k = std::int64_t{blockIdx.x} - s.first_chunk;
      if (k >= s.num_chunks()) return false;
      block.chunk = s.chunk(p, k);
      return true;
    });
  }
  __syncthreads();
  if (block.chunk.count == 0) return false;
  const Sequences& s = p.sequences;
  const int i = static_cast<int>(threadIdx.x);
  if (i < chunk_tokens) {
    int first = i < block.chunk.count ? i : chunk_tokens;
    for (; first >= 0 && first < chunk_tokens; --first) {
      const std::int64_t t = block.chunk.begin + first;
      const bool is_first = t == s.offsets[block.chunk.sequence];
      if (is_first ? s.slots == nullptr : s.document[t] != s.document[t - 1]) break;
    }
    block.first[i] = first;
  }
  return true;
}

/// Its steps and sums of a head, from the room.
template <class A>
__device__ void read_steps(const ScanProblem& p, const Room<A>& room, std::int64_t head, BlockChunk<A>& block) {
  __syncthreads();  // those of another head have been read
  const int i = static_cast<int>(threadIdx.x);
  if (i < chunk_tokens) {
    const std::int64_t at = head * p.sequences.tokens + block.chunk.begin + i;
    block.step[i] = i < block.chunk.count ? room.steps[at] : A{0};
    block.sum[i] = i < block.chunk.count ? room.sums[at] : A{0};
  }
  __syncthreads();
}
template <class A>
__device__ bool read_chunk(const ScanProblem& p, const Room<A>& room, std::int64_t head, BlockChunk<A>& block) {
  if (!find_chunk(p, block)) return false;
  read_steps(p, room, head, block);
  return true;
}

/// The thread's 4 x 4 results of a tile: rows y() + 16 i, columns x() + 16 j.
__device__ inline int x() { return static_cast<int>(threadIdx.x) % threads_x; }
__device__ inline int y() { return static_cast<int>(threadIdx.x) / threads_x; }

template <class A>
struct Sums {
  A of[part][part] = {};

  /// f(row, column, sum)
  template <class F>
  __device__ __forceinline__ void for_each(F&& f) {
#pragma unroll
    for (int i = 0; i < part; ++i)
#pragma unroll
      for (int j = 0; j < part; ++j) f(y() + i * threads_x, x() + j * threads_x, of[i][j]);
  }
  /// f(row, what its columns add up to of g(row, column, sum)), by one thread a row.
  template <class F, class G>
  __device__ __forceinline__ void sum_rows(G&& g, F&& f) {
#pragma unroll
    for (int i = 0; i < part; ++i) {
      const int row = y() + i * threads_x;
      A sum = 0;
#pragma unroll
      for (int j = 0; j < part; ++j) sum += g(row, x() + j * threads_x, of[i][j]);
      for (int distance = threads_x / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(full_warp, sum, distance);
      if (x() == 0) f(row, sum);
    }
  }
};

template <class A>
struct Factors {
  A left[terms_at_once][tile + 1], right[terms_at_once][tile + 1];
};

/// A number for each two tokens of a chunk, in dynamic shared memory.
template <class A>
struct Pairs {
  static constexpr int pitch = tile + 1;
  static constexpr std::size_t bytes = sizeof(A) * chunk_tokens * pitch;
  A* values = gpu::dynamic_shared<A>();
  __device__ A& operator()(int row, int column) const { return values[row * pitch + column]; }
};

/// sums += Σ over terms of left(row, term) right(term, column). ByTerm: neighbouring terms of a factor lie side by side
/// in memory, else its rows or columns do.
template <bool LeftByTerm, bool RightByTerm, class A, class L, class R>
__device__ __forceinline__ void multiply(Factors<A>& shared, int terms, L&& left, R&& right, Sums<A>& sums) {
  for (int first = 0; first < terms; first += terms_at_once) {
    __syncthreads();  // the last factors have been read
    for (int i = static_cast<int>(threadIdx.x); i < terms_at_once * tile; i += static_cast<int>(scan_threads)) {
      const int by_term = i % terms_at_once, by_term_other = i / terms_at_once, across = i % tile, down = i / tile;
      const int left_term = LeftByTerm ? by_term : down, row = LeftByTerm ? by_term_other : across;
      const int right_term = RightByTerm ? by_term : down, column = RightByTerm ? by_term_other : across;
      shared.left[left_term][row] = first + left_term < terms ? left(row, first + left_term) : A{0};
      shared.right[right_term][column] = first + right_term < terms ? right(first + right_term, column) : A{0};
    }
    __syncthreads();
    for (int term = 0; term < terms_at_once; ++term)
#pragma unroll
      for (int i = 0; i < part; ++i)
#pragma unroll
        for (int j = 0; j < part; ++j)
          sums.of[i][j] += shared.left[term][y() + i * threads_x] * shared.right[term][x() + j * threads_x];
  }
}

/// Rows of a chunk's tokens, of values [T,pitch] from a column on; 0 outside.
template <class T>
struct Rows {
  const T* values;
  std::int64_t pitch;
  int count, width;

  __device__ Rows(const T* of, const Chunk& chunk, std::int64_t of_pitch, std::int64_t column, std::int64_t columns)
      : values(of + chunk.begin * of_pitch + column),
        pitch(of_pitch),
        count(chunk.count),
        width(static_cast<int>(columns)) {}
  __device__ Acc<T> operator()(int token, int column) const {
    return token < count && column < width ? as<Acc<T>>(values[token * pitch + column]) : Acc<T>{0};
  }
};
/// Those of x, or of what is like it, of a head; and those of b and c of its group.
template <class T>
__device__ Rows<T> head_rows(const ScanProblem& p, const T* of, const Chunk& chunk, std::int64_t head) {
  return Rows<T>(of, chunk, p.num_heads * p.width, head * p.width, p.width);
}
template <class T>
__device__ Rows<T> group_rows(const ScanProblem& p, const T* of, const Chunk& chunk, std::int64_t group) {
  return Rows<T>(of, chunk, p.num_groups * p.state_width, group * p.state_width, p.state_width);
}
/// A state [P,N]; 0 outside.
template <class A>
struct State {
  const A* values;
  int width, state_width;

  __device__ State(const ScanProblem& p, const A* of)
      : values(of), width(static_cast<int>(p.width)), state_width(static_cast<int>(p.state_width)) {}
  __device__ A operator()(int channel, int n) const {
    return channel < width && n < state_width ? values[std::int64_t{channel} * state_width + n] : A{0};
  }
};

/// Steps and sums of a chunk, block (chunk, heads): a thread has a head.
template <class T>
__global__ void __launch_bounds__(scan_threads)
    steps_kernel(const ScanProblem p, const ScanInputs<T> in, const Room<Acc<T>> room) {
  using A = Acc<T>;
  __shared__ BlockChunk<A> block;
  if (!find_chunk(p, block)) return;
  __syncthreads();
  const std::int64_t head = std::int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (head >= p.num_heads) return;
  const A rate = -std::exp(in.a_log[head]);
  A sum = 0;
  for (std::int64_t t = block.chunk.begin; t < block.chunk.begin + block.chunk.count; ++t) {
    const A step = within_limits(p, softplus_of(as<A>(in.dt[t * p.num_heads + head]) + in.dt_bias[head]));
    sum += step * rate;
    room.steps[head * p.sequences.tokens + t] = step;
    room.sums[head * p.sequences.tokens + t] = sum;
  }
  room.wholes[blockIdx.x * p.num_heads + head] = block.first[block.chunk.count - 1] < 0 ? std::exp(sum) : A{0};
}

/// What a chunk's tokens leave behind, Σ_j step_j to_end_j x_j b_j^T, or what gradients they have of the state before,
/// Σ_i from_begin_i dy_i c_i^T: block (chunk, head).
template <bool Behind, class T>
__global__ void __launch_bounds__(scan_threads)
    chunk_states_kernel(const ScanProblem p, const T* values, const T* rows, const Room<Acc<T>> room, Acc<T>* states) {
  using A = Acc<T>;
  __shared__ BlockChunk<A> block;
  __shared__ Factors<A> factors;
  const std::int64_t head = blockIdx.y;
  if (!read_chunk(p, room, head, block)) return;
  const std::int64_t number = Behind ? block.chunk.behind : block.chunk.before;
  if (number < 0) return;
  A* const to = states + (number * p.num_heads + head) * p.state_elements();
  const auto value = head_rows(p, values, block.chunk, head);
  const auto row = group_rows(p, rows, block.chunk, head / p.group_heads());
  for (int channel = 0; channel < p.width; channel += tile)
    for (int n = 0; n < p.state_width; n += tile) {
      Sums<A> sums;
      multiply<false, false>(
          factors, block.chunk.count,
          [&](int c, int i) {
            return value(i, channel + c) * (Behind ? block.step[i] * block.to_end(i) : block.from_begin(i));
          },
          [&](int i, int k) { return row(i, n + k); }, sums);
      sums.for_each([&](int c, int k, A sum) {
        if (channel + c < p.width && n + k < p.state_width) to[(channel + c) * p.state_width + n + k] = sum;
      });
    }
}

/// Adds to each state behind a chunk what is left of the one before, or to gradients the other way round: block
/// (elements, head, sequence), a thread has an element. With slots what is before a sequence, or the gradient of what
/// it leaves, is read first, which is 0 where `slot_states` is null.
template <bool Behind, class A>
__global__ void __launch_bounds__(scan_threads)
    carry_kernel(const ScanProblem p, const Room<A> room, A* states, const A* slot_states) {
  const std::int64_t element = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x, head = blockIdx.y;
  const std::int64_t elements = p.width * p.state_width;
  if (element >= elements) return;
  const auto at = [&](std::int64_t number) { return (number * p.num_heads + head) * p.state_elements() + element; };
  for_each_sequence(p, [&](const ChunkedSequence& s) {
    if (s.sequence % gridDim.z != blockIdx.z) return false;
    if (p.sequences.slots != nullptr)
      states[at(s.first_state + (Behind ? 0 : s.num_chunks()))] =
          slot_states == nullptr
              ? A{0}
              : slot_states[(p.sequences.slots[s.sequence] * p.num_heads + head) * elements + element];
    for (std::int64_t i = 0; i < s.num_chunks(); ++i) {
      const std::int64_t k = Behind ? i : s.num_chunks() - 1 - i;
      const Chunk chunk = s.chunk(p, k);
      if (chunk.before < 0 || chunk.behind < 0) continue;
      const A whole = room.wholes[(s.first_chunk + k) * p.num_heads + head];
      if (Behind)
        states[at(chunk.behind)] += whole * states[at(chunk.before)];
      else
        states[at(chunk.before)] += whole * states[at(chunk.behind)];
    }
    return false;
  });
}

template <bool Behind, class A>
void carry(const Cuda& cuda, const ScanProblem& p, const Room<A>& room, A* states, const A* slot_states) {
  const auto sequences = static_cast<unsigned>(std::min<std::int64_t>(p.sequences.number, 64));
  gpu::launch(cuda, carry_kernel<Behind, A>,
              dim3(static_cast<unsigned>(ceil_div(p.width * p.state_width, scan_threads)),
                   static_cast<unsigned>(p.num_heads), sequences),
              dim3(scan_threads), 0, p, room, states, slot_states);
}

/// Of sequences with slots, in chunks, what they leave, or the gradients of what they go on from, to rows [S,H,pitch]:
/// block (elements, head). Where a row has a number more, that is what the sequence leaves of a state before it.
template <bool Behind, class A>
__global__ void __launch_bounds__(scan_threads)
    write_states_kernel(const ScanProblem p, const Room<A> room, const A* states, A* rows, std::int64_t pitch) {
  const std::int64_t element = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x, head = blockIdx.y;
  if (element >= pitch) return;
  for_each_sequence(p, [&](const ChunkedSequence& s) {
    A value = 1;
    if (element < p.width * p.state_width) {
      const std::int64_t number = s.first_state + (Behind ? s.num_chunks() : 0);
      value = states[(number * p.num_heads + head) * p.state_elements() + element];
    } else {
      for (std::int64_t k = 0; k < s.num_chunks(); ++k) value *= room.wholes[(s.first_chunk + k) * p.num_heads + head];
    }
    rows[(p.sequences.slots[s.sequence] * p.num_heads + head) * pitch + element] = value;
    return false;
  });
}

template <bool Behind, class A>
void write_states(const Cuda& cuda, const ScanProblem& p, const Room<A>& room, const A* states, A* rows,
                  std::int64_t pitch) {
  gpu::launch(cuda, write_states_kernel<Behind, A>,
              dim3(static_cast<unsigned>(ceil_div(pitch, scan_threads)), static_cast<unsigned>(p.num_heads)),
              dim3(scan_threads), 0, p, room, states, rows, pitch);
}

template <class T>
void make_steps(const Cuda& cuda, const ScanProblem& p, const ScanInputs<T>& in, const Room<Acc<T>>& room) {
  const auto chunks = static_cast<unsigned>(most_chunks(p));
  gpu::launch(cuda, steps_kernel<T>, dim3(chunks, static_cast<unsigned>(ceil_div(p.num_heads, scan_threads))),
              dim3(scan_threads), 0, p, in, room);
}

/// The states between chunks, behind make_steps.
template <class T>
void make_states(const Cuda& cuda, const ScanProblem& p, const ScanInputs<T>& in, const Room<Acc<T>>& room,
                 const Acc<T>* slot_states) {
  const auto chunks = static_cast<unsigned>(most_chunks(p)), heads = static_cast<unsigned>(p.num_heads);
  gpu::launch(cuda, chunk_states_kernel<true, T>, dim3(chunks, heads), dim3(scan_threads), 0, p, in.x, in.b, room,
              room.states);
  carry<true>(cuda, p, room, room.states, slot_states);
}

/// The gradients of the states between chunks, behind make_steps.
template <class T>
void make_after(const Cuda& cuda, const ScanProblem& p, const ScanInputs<T>& in, const T* dy,
                const Room<Acc<T>>& room, Acc<T>* after, const Acc<T>* slot_gradients) {
  gpu::launch(cuda, chunk_states_kernel<false, T>,
              dim3(static_cast<unsigned>(most_chunks(p)), static_cast<unsigned>(p.num_heads)), dim3(scan_threads), 0, p,
              dy, in.c, room, after);
  carry<false>(cuda, p, room, after, slot_gradients);
}

}  // namespace limbeck::kernels::cuda_scan
