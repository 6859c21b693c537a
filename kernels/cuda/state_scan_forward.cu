#include "kernels/cuda/state_scan.cuh"

namespace limbeck::kernels {
namespace cuda_scan {
namespace {

/// The output of a chunk's tokens: block (chunk, head). y_i = Σ_j<=i (c_i b_j) decay_ij step_j x_j
/// + from_begin_i state c_i + skip x_i.
template <class T>
__global__ void __launch_bounds__(scan_threads)
    outputs_kernel(const ScanProblem p, const ScanInputs<T> in, const Room<Acc<T>> room, T* outputs) {
  using A = Acc<T>;
  __shared__ BlockChunk<A> block;
  __shared__ Factors<A> factors;
  const Pairs<A> weights;
  const std::int64_t head = blockIdx.y, group = head / p.group_heads();
  if (!read_chunk(p, room, head, block)) return;
  const Chunk& chunk = block.chunk;
  const auto in_x = head_rows(p, in.x, chunk, head);
  const auto in_b = group_rows(p, in.b, chunk, group), in_c = group_rows(p, in.c, chunk, group);
  const int n = static_cast<int>(p.state_width);

  Sums<A> scores;
  multiply<true, true>(
      factors, n, [&](int i, int k) { return in_c(i, k); }, [&](int k, int j) { return in_b(j, k); }, scores);
  scores.for_each([&](int i, int j, A score) { weights(i, j) = score * block.decay(i, j) * block.step[j]; });

  for (int channel = 0; channel < p.width; channel += tile) {
    Sums<A> sums;
    if (chunk.before >= 0) {
      const State<A> state(p, room.state(p, chunk.before, head));
      multiply<true, true>(
          factors, n, [&](int i, int k) { return in_c(i, k); }, [&](int k, int c) { return state(channel + c, k); },
          sums);
      sums.for_each([&](int i, int, A& sum) { sum *= block.from_begin(i); });
    }
    multiply<true, false>(
        factors, chunk.count, [&](int i, int j) { return weights(i, j); },
        [&](int j, int c) { return in_x(j, channel + c); }, sums);
    sums.for_each([&](int i, int c, A sum) {
      if (i >= chunk.count || channel + c >= p.width) return;
      outputs[((chunk.begin + i) * p.num_heads + head) * p.width + channel + c] =
          rounded<T>(sum + in.skip[head] * in_x(i, channel + c));
    });
  }
}

/// Sequences of a few tokens: block (sequence, head). A warp has a row of the state, a channel's, at a time, and a lane
/// every 32nd value of it.
template <class T>
__global__ void __launch_bounds__(scan_threads)
    tokens_kernel(const ScanProblem p, const ScanInputs<T> in, Acc<T>* states, T* outputs) {
  using A = Acc<T>;
  const Sequences& s = p.sequences;
  const std::int64_t head = blockIdx.y, group = head / p.group_heads(), n = p.state_width;
  const std::int64_t lane = threadIdx.x % warp_size, warps = blockDim.x / warp_size;
  const A rate = -std::exp(in.a_log[head]);
  for (std::int64_t sequence = blockIdx.x; sequence < s.number; sequence += gridDim.x) {
    const std::int64_t begin = s.offsets[sequence], end = s.offsets[sequence + 1];
    if (!is_of_few(p, end - begin)) continue;
    A* const state = states + (s.slots[sequence] * p.num_heads + head) * p.width * n;
    for (std::int64_t t = begin; t < end; ++t) {
      const bool begins = t > begin && s.document[t] != s.document[t - 1];
      const A step = within_limits(p, softplus_of(as<A>(in.dt[t * p.num_heads + head]) + in.dt_bias[head]));
      const A decay = std::exp(step * rate);
      const T* const b = in.b + (t * p.num_groups + group) * n;
      const T* const c = in.c + (t * p.num_groups + group) * n;
      for (std::int64_t channel = threadIdx.x / warp_size; channel < p.width; channel += warps) {
        const std::int64_t at = (t * p.num_heads + head) * p.width + channel;
        const A own = as<A>(in.x[at]), given = step * own;
        A sum = 0;
        for (std::int64_t k = lane; k < n; k += warp_size) {
          A& value = state[channel * n + k];
          value = (begins ? A{0} : decay * value) + given * as<A>(b[k]);
          sum += value * as<A>(c[k]);
        }
        sum = warp_sum(sum);
        if (lane == 0) outputs[at] = rounded<T>(sum + in.skip[head] * own);
      }
    }
  }
}

}  // namespace
}  // namespace cuda_scan

template <class D, class T>
void state_scan(const D& cuda, const ScanProblem& p, const ScanInputs<T>& in, Acc<T>* memory, Acc<T>* states,
                T* outputs) {
  using namespace cuda_scan;
  using A = Acc<T>;
  if (p.sequences.tokens == 0) return;
  const Room<A> room(p, memory);
  const auto heads = static_cast<unsigned>(p.num_heads);
  make_steps<T>(cuda, p, in, room);
  make_states<T>(cuda, p, in, room, states);
  gpu::launch(cuda, outputs_kernel<T>, dim3(static_cast<unsigned>(most_chunks(p)), heads), dim3(scan_threads),
              Pairs<A>::bytes, p, in, room, outputs);
  if (states == nullptr) return;
  write_states<true, A>(cuda, p, room, room.states, states, p.width * p.state_width);
  if (!p.few_by_tokens) return;
  gpu::launch(cuda, tokens_kernel<T>, dim3(blocks_for(cuda, p.sequences.number).x, heads), dim3(scan_threads), 0, p, in,
              states, outputs);
}

#define LIMBECK_INSTANTIATE(T) \
  template void state_scan(const Cuda&, const ScanProblem&, const ScanInputs<T>&, Acc<T>*, Acc<T>*, T*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
