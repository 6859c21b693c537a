#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/state_scan.cuh"

namespace limbeck::kernels {
namespace cuda_scan {
namespace {

/// What the kernels read: the states between chunks, in `room`, and their gradients.
template <class T>
struct Backward {
  using A = Acc<T>;
  ScanProblem p;
  ScanInputs<T> in;
  const T* dy;
  Room<A> room;
  const A* after;
  A* skip_terms;  // [H,T]

  __device__ State<A> state_after(std::int64_t number, std::int64_t head) const {
    return State<A>(p, after + (number * p.num_heads + head) * p.state_elements());
  }
};

/// Gradients of b and c, of 64 of their values: block (chunk, group, values). The gradient of c_i b_j is
/// (x_j dy_i) decay_ij step_j, summed over the group's heads; states add what they have.
template <class T>
__global__ void __launch_bounds__(scan_threads) factors_gradient_kernel(const Backward<T> f, T* db, T* dc) {
  using A = Acc<T>;
  __shared__ BlockChunk<A> block;
  __shared__ Factors<A> factors;
  const Pairs<A> pairs;  // [j,i]
  const ScanProblem& p = f.p;
  const std::int64_t group = blockIdx.y;
  const int first = static_cast<int>(blockIdx.z) * tile, width = static_cast<int>(p.width);
  if (!find_chunk(p, block)) return;
  const Chunk& chunk = block.chunk;
  Sums<A> of_pairs, of_b, of_c;
  for (std::int64_t head = group * p.group_heads(); head < (group + 1) * p.group_heads(); ++head) {
    read_steps(p, f.room, head, block);
    const auto x_rows = head_rows(p, f.in.x, chunk, head), dy_rows = head_rows(p, f.dy, chunk, head);
    Sums<A> products;
    multiply<true, true>(
        factors, width, [&](int j, int c) { return x_rows(j, c); }, [&](int c, int i) { return dy_rows(i, c); },
        products);
#pragma unroll
    for (int a = 0; a < part; ++a)
#pragma unroll
      for (int b = 0; b < part; ++b) {
        const int j = y() + a * threads_x, i = x() + b * threads_x;
        of_pairs.of[a][b] += products.of[a][b] * block.decay(i, j) * block.step[j];
      }
    if (chunk.behind >= 0) {
      const State<A> state = f.state_after(chunk.behind, head);
      multiply<true, false>(
          factors, width, [&](int j, int c) { return x_rows(j, c) * block.step[j] * block.to_end(j); },
          [&](int c, int k) { return state(c, first + k); }, of_b);
    }
    if (chunk.before >= 0) {
      const State<A> state(p, f.room.state(p, chunk.before, head));
      multiply<true, false>(
          factors, width, [&](int i, int c) { return dy_rows(i, c) * block.from_begin(i); },
          [&](int c, int k) { return state(c, first + k); }, of_c);
    }
  }
  of_pairs.for_each([&](int j, int i, A sum) { pairs(j, i) = sum; });
  const auto b_rows = group_rows(p, f.in.b, chunk, group), c_rows = group_rows(p, f.in.c, chunk, group);
  multiply<true, false>(
      factors, chunk.count, [&](int j, int i) { return pairs(j, i); },
      [&](int i, int k) { return c_rows(i, first + k); }, of_b);
  multiply<false, false>(
      factors, chunk.count, [&](int i, int j) { return pairs(j, i); },
      [&](int j, int k) { return b_rows(j, first + k); }, of_c);
  const auto write = [&](T* to) {
    return [=, &chunk, &p](int token, int k, A sum) {
      if (token < chunk.count && first + k < p.state_width)
        to[((chunk.begin + token) * p.num_groups + group) * p.state_width + first + k] = rounded<T>(sum);
    };
  };
  of_b.for_each(write(db));
  of_c.for_each(write(dc));
}

/// Gradients of x and dt, and in place of the steps and sums the terms of those of dt_bias and of A: block (chunk,
/// head). With v_j = Σ_i>=j (c_i b_j) decay_ij dy_i + to_end_j after b_j: dx_j = step_j v_j + skip dy_j.
template <class T>
__global__ void __launch_bounds__(scan_threads) inputs_gradient_kernel(const Backward<T> f, T* dx, T* ddt) {
  using A = Acc<T>;
  __shared__ BlockChunk<A> block;
  __shared__ Factors<A> factors;
  __shared__ A of_begin[chunk_tokens], of_end[chunk_tokens], d_step[chunk_tokens], skip_term[chunk_tokens];
  const Pairs<A> pairs;  // [j,i]
  const ScanProblem& p = f.p;
  const std::int64_t head = blockIdx.y, group = head / p.group_heads();
  const int width = static_cast<int>(p.width), n = static_cast<int>(p.state_width);
  const int t = static_cast<int>(threadIdx.x);
  if (t < chunk_tokens) of_begin[t] = of_end[t] = d_step[t] = skip_term[t] = 0;
  if (!read_chunk(p, f.room, head, block)) return;
  const Chunk& chunk = block.chunk;
  const auto x_rows = head_rows(p, f.in.x, chunk, head), dy_rows = head_rows(p, f.dy, chunk, head);
  const auto b_rows = group_rows(p, f.in.b, chunk, group), c_rows = group_rows(p, f.in.c, chunk, group);

  // The decay of token t stands in all products of a token before it and one from it on.
  Sums<A> weighted, products;
  multiply<true, true>(
      factors, n, [&](int j, int k) { return b_rows(j, k); }, [&](int k, int i) { return c_rows(i, k); }, weighted);
  multiply<true, true>(
      factors, width, [&](int j, int c) { return x_rows(j, c); }, [&](int c, int i) { return dy_rows(i, c); },
      products);
  weighted.for_each([&](int j, int i, A& score) { score *= block.decay(i, j); });
#pragma unroll
  for (int a = 0; a < part; ++a)
#pragma unroll
    for (int b = 0; b < part; ++b) {
      const int j = y() + a * threads_x, i = x() + b * threads_x;
      pairs(j, i) = i > j ? products.of[a][b] * weighted.of[a][b] * block.step[j] : A{0};
    }
  __syncthreads();
  if (t < chunk_tokens) {
    A sum = 0;  // of the tokens up to j
    for (int j = 0; j < chunk_tokens; ++j) pairs(j, t) = sum += pairs(j, t);
  }
  __syncthreads();
  A d_log_decay = 0;  // of token t
  if (t > 0 && t < chunk_tokens)
    for (int i = t; i < chunk_tokens; ++i) d_log_decay += pairs(t - 1, i);
  __syncthreads();
  weighted.for_each([&](int j, int i, A weight) { pairs(j, i) = weight; });

  const State<A> before(p, chunk.before < 0 ? nullptr : f.room.state(p, chunk.before, head));
  const State<A> after = f.state_after(chunk.behind < 0 ? 0 : chunk.behind, head);
  for (int channel = 0; channel < width; channel += tile) {
    if (chunk.before >= 0) {
      Sums<A> sums;
      multiply<true, true>(
          factors, n, [&](int i, int k) { return c_rows(i, k); }, [&](int k, int c) { return before(channel + c, k); },
          sums);
      sums.sum_rows([&](int i, int c, A sum) { return sum * dy_rows(i, channel + c); },
                    [&](int i, A sum) { of_begin[i] += sum * block.from_begin(i); });
    }
    Sums<A> sums;
    if (chunk.behind >= 0) {
      multiply<true, true>(
          factors, n, [&](int j, int k) { return b_rows(j, k); }, [&](int k, int c) { return after(channel + c, k); },
          sums);
      sums.for_each([&](int j, int, A& sum) { sum *= block.to_end(j); });
      sums.sum_rows([&](int j, int c, A sum) { return sum * x_rows(j, channel + c); },
                    [&](int j, A sum) { of_end[j] += sum * block.step[j]; });
    }
    multiply<true, false>(
        factors, chunk.count, [&](int j, int i) { return pairs(j, i); },
        [&](int i, int c) { return dy_rows(i, channel + c); }, sums);
    sums.sum_rows([&](int j, int c, A sum) { return sum * x_rows(j, channel + c); },
                  [&](int j, A sum) { d_step[j] += sum; });
    sums.sum_rows([&](int j, int c, A) { return dy_rows(j, channel + c) * x_rows(j, channel + c); },
                  [&](int j, A sum) { skip_term[j] += sum; });
    sums.for_each([&](int j, int c, A sum) {
      if (j < chunk.count && channel + c < width)
        dx[((chunk.begin + j) * p.num_heads + head) * p.width + channel + c] =
            rounded<T>(block.step[j] * sum + f.in.skip[head] * dy_rows(j, channel + c));
    });
  }

  A both = 0;
  if (chunk.before >= 0 && chunk.behind >= 0)
    for (int i = t; i < width * n; i += static_cast<int>(scan_threads)) both += before.values[i] * after.values[i];
  both = block_sum(both) * block.whole();
  __syncthreads();
  if (t >= chunk.count) return;
  d_log_decay += both;
  for (int i = t; i < chunk.count; ++i) d_log_decay += of_begin[i];
  for (int j = 0; j < t; ++j) d_log_decay += of_end[j];
  const A rate = -std::exp(f.in.a_log[head]);
  const std::int64_t at = (chunk.begin + t) * p.num_heads + head, place = head * p.sequences.tokens + chunk.begin + t;
  const A raw = as<A>(f.in.dt[at]) + f.in.dt_bias[head], step = softplus_of(raw);
  const bool is_free = step >= static_cast<A>(p.least_step) && step <= static_cast<A>(p.most_step);
  const A d_raw = is_free ? (d_step[t] + rate * d_log_decay) * logistic(raw) : A{0};
  ddt[at] = rounded<T>(d_raw);
  f.room.steps[place] = d_raw;
  f.room.sums[place] = block.step[t] * rate * d_log_decay;
  f.skip_terms[place] = skip_term[t];
}

/// totals[h] = Σ_t terms[h,t]: a block has a head.
template <class A>
__global__ void __launch_bounds__(scan_threads) sum_tokens_kernel(const A* terms, std::int64_t tokens, A* totals) {
  A sum = 0;
  for (std::int64_t t = threadIdx.x; t < tokens; t += blockDim.x) sum += terms[blockIdx.x * tokens + t];
  sum = block_sum(sum);
  if (threadIdx.x == 0) totals[blockIdx.x] = sum;
}

}  // namespace
}  // namespace cuda_scan

template <class D, class T>
void state_scan_gradient(const D& cuda, const ScanProblem& p, const ScanInputs<T>& in, const T* dy, Acc<T>* memory,
                         const ScanGradients<T>& gradients, const Acc<T>* states, Acc<T>* dstates) {
  using namespace cuda_scan;
  using A = Acc<T>;
  const Room<A> room(p, memory);
  A* const after = room.states + p.num_states() * p.num_heads * p.state_elements();
  A* const skip_terms = after + p.num_states() * p.num_heads * p.state_elements();
  const auto heads = static_cast<unsigned>(p.num_heads), groups = static_cast<unsigned>(p.num_groups);
  if (p.sequences.tokens > 0) {
    const auto chunks = static_cast<unsigned>(most_chunks(p));
    make_steps<T>(cuda, p, in, room);
    make_states<T>(cuda, p, in, room, states);
    make_after<T>(cuda, p, in, dy, room, after, dstates);
    if (dstates != nullptr) write_states<false, A>(cuda, p, room, after, dstates, p.width * p.state_width);
    const Backward<T> backward{p, in, dy, room, after, skip_terms};
    gpu::launch(cuda, factors_gradient_kernel<T>,
                dim3(chunks, groups, static_cast<unsigned>(ceil_div(p.state_width, tile))), dim3(scan_threads),
                Pairs<A>::bytes, backward, gradients.b, gradients.c);
    gpu::launch(cuda, inputs_gradient_kernel<T>, dim3(chunks, heads), dim3(scan_threads), Pairs<A>::bytes, backward,
                gradients.x, gradients.dt);
  }
  const auto sum = [&](const A* terms, A* totals) {
    gpu::launch(cuda, sum_tokens_kernel<A>, dim3(heads), dim3(scan_threads), 0, terms, p.sequences.tokens, totals);
  };
  sum(room.steps, gradients.dt_bias);
  sum(room.sums, gradients.a_log);
  sum(skip_terms, gradients.skip);
}

#define LIMBECK_INSTANTIATE(T)                                                                                \
  template void state_scan_gradient(const Cuda&, const ScanProblem&, const ScanInputs<T>&, const T*, Acc<T>*, \
                                    const ScanGradients<T>&, const Acc<T>*, Acc<T>*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
