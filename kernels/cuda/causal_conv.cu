#include "kernels/causal_conv.h"

#include <cmath>

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/column_sums.cuh"

namespace limbeck::kernels {
namespace {

/// The sequence that token t is of.
__device__ inline std::int64_t sequence_of(const Sequences& s, std::int64_t t) {
  std::int64_t low = 0, high = s.number;  // the last whose offset is not behind t
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    if (s.offsets[middle] <= t)
      low = middle;
    else
      high = middle;
  }
  return low;
}

template <class T>
struct Conv {
  using A = Acc<T>;
  Sequences sequences;
  const T* x;
  const A *weight, *bias;
  const T* states;
  std::int64_t channels;
  int taps;

  /// What is in front of a token: so many of its document, at most taps - 1, and the state, or none.
  struct Past {
    std::int64_t token;
    int before;
    const T* state;
  };
  /// Of sequence n, which begins at `first`. Its end counts as a token more of its last document.
  __device__ Past past(std::int64_t t, std::int64_t n, std::int64_t first) const {
    int before = 0;
    const bool is_end = t == sequences.offsets[n + 1];
    const std::int32_t document = sequences.document[is_end ? t - 1 : t];
    while (before < taps - 1 && t - before > first && sequences.document[t - before - 1] == document) ++before;
    const bool goes_on = states != nullptr && t - before == first;
    return {t, before, goes_on ? states + sequences.slots[n] * (taps - 1) * channels : nullptr};
  }
  /// Of the row that lies `back` in front of the token.
  __device__ A value(const Past& past, int back, std::int64_t c) const {
    if (back <= past.before) return as<A>(x[(past.token - back) * channels + c]);
    if (past.state == nullptr) return A{0};
    return as<A>(past.state[(taps - 1 - (back - past.before)) * channels + c]);
  }
  /// What silu is of.
  __device__ A sum(const Past& past, std::int64_t c) const {
    A sum = bias == nullptr ? A{0} : bias[c];
    for (int k = 0; k < taps; ++k) sum += weight[c * taps + k] * value(past, taps - 1 - k, c);
    return sum;
  }
  __device__ A gradient(const Past& past, std::int64_t c, const T* dy) const {
    return SiluActivation::gradient(sum(past, c), A{1}, as<A>(dy[past.token * channels + c])).of_x;
  }
};

/// A block has a token's channels.
template <class T>
__global__ void __launch_bounds__(usual_threads) conv_kernel(const Conv<T> conv, T* y) {
  using A = Acc<T>;
  for (std::int64_t t = blockIdx.x; t < conv.sequences.tokens; t += gridDim.x) {
    const std::int64_t n = sequence_of(conv.sequences, t);
    const auto past = conv.past(t, n, conv.sequences.offsets[n]);
    for (std::int64_t c = threadIdx.x; c < conv.channels; c += blockDim.x) {
      const A sum = conv.sum(past, c);
      y[t * conv.channels + c] = rounded<T>(sum * logistic(sum));
    }
  }
}

/// A block has a sequence; a thread writes the rows of a channel in their order, each behind those that it is read
/// from.
template <class T>
__global__ void __launch_bounds__(usual_threads) conv_states_kernel(const Conv<T> conv, T* states) {
  for (std::int64_t n = blockIdx.x; n < conv.sequences.number; n += gridDim.x) {
    const std::int64_t first = conv.sequences.offsets[n], end = conv.sequences.offsets[n + 1];
    if (first == end) continue;
    const auto past = conv.past(end, n, first);
    T* const state = states + conv.sequences.slots[n] * (conv.taps - 1) * conv.channels;
    for (std::int64_t c = threadIdx.x; c < conv.channels; c += blockDim.x)
      for (int k = 0; k < conv.taps - 1; ++k)
        state[k * conv.channels + c] = rounded<T>(conv.value(past, conv.taps - 1 - k, c));
  }
}

template <class T>
__global__ void __launch_bounds__(usual_threads) conv_gradient_kernel(const Conv<T> conv, const T* dy, T* dx) {
  using A = Acc<T>;
  const Sequences& s = conv.sequences;
  for (std::int64_t t = blockIdx.x; t < s.tokens; t += gridDim.x) {
    const std::int64_t n = sequence_of(s, t), first = s.offsets[n], end = s.offsets[n + 1];
    for (std::int64_t c = threadIdx.x; c < conv.channels; c += blockDim.x) {
      A sum = 0;
      for (int back = 0; back < conv.taps && t + back < end && s.document[t + back] == s.document[t]; ++back)
        sum += conv.weight[c * conv.taps + conv.taps - 1 - back] * conv.gradient(conv.past(t + back, n, first), c, dy);
      dx[t * conv.channels + c] = rounded<T>(sum);
    }
  }
}

/// Of the rows of states that sequences go on from: a block has a sequence.
template <class T>
__global__ void __launch_bounds__(usual_threads)
    conv_states_gradient_kernel(const Conv<T> conv, const T* dy, T* dstates) {
  using A = Acc<T>;
  const Sequences& s = conv.sequences;
  for (std::int64_t n = blockIdx.x; n < s.number; n += gridDim.x) {
    const std::int64_t first = s.offsets[n], end = s.offsets[n + 1];
    if (first == end) continue;
    T* const state = dstates + s.slots[n] * (conv.taps - 1) * conv.channels;
    for (std::int64_t c = threadIdx.x; c < conv.channels; c += blockDim.x)
      for (int k = 0; k < conv.taps - 1; ++k) {  // taps - 1 - k in front of the first token
        A sum = 0;
        for (int i = 0; i <= k && first + i < end && s.document[first + i] == s.document[first]; ++i)
          sum += conv.weight[c * conv.taps + k - i] * conv.gradient(conv.past(first + i, n, first), c, dy);
        state[k * conv.channels + c] = rounded<T>(sum);
      }
  }
}

/// A thread has a channel, from `first_channel` on, and the tokens of part blockIdx.y: parts [.,channels*taps] of the
/// weight's gradient and [.,channels] of the bias's.
template <class T>
__global__ void __launch_bounds__(usual_threads)
    conv_weight_kernel(const Conv<T> conv, const T* dy, std::int64_t rows_a_part, std::int64_t first_channel,
                       std::int64_t channels, Acc<T>* weight_parts, Acc<T>* bias_parts) {
  using A = Acc<T>;
  const Sequences& s = conv.sequences;
  const std::int64_t at = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x, c = first_channel + at;
  if (at >= channels) return;
  const std::int64_t part = blockIdx.y, begin = part * rows_a_part;
  const std::int64_t end = s.tokens < begin + rows_a_part ? s.tokens : begin + rows_a_part;
  A weight[most_taps] = {}, bias = 0;
  for (std::int64_t t = begin; t < end; ++t) {
    const std::int64_t n = sequence_of(s, t);
    const auto past = conv.past(t, n, s.offsets[n]);
    const A g = conv.gradient(past, c, dy);
    bias += g;
#pragma unroll
    for (int k = 0; k < most_taps; ++k)
      if (k < conv.taps) weight[k] += g * conv.value(past, conv.taps - 1 - k, c);
  }
#pragma unroll
  for (int k = 0; k < most_taps; ++k)
    if (k < conv.taps) weight_parts[(part * channels + at) * conv.taps + k] = weight[k];
  bias_parts[part * channels + at] = bias;
}

}  // namespace

template <class D, class T>
void causal_conv(const D& cuda, const Sequences& sequences, const T* x, const Acc<T>* weight, const Acc<T>* bias,
                 T* states, T* y, std::int64_t channels, std::int64_t taps) {
  if (sequences.tokens == 0 || channels == 0) return;
  const Conv<T> conv{sequences, x, weight, bias, states, channels, static_cast<int>(taps)};
  const dim3 threads = threads_for_row(channels, usual_threads);
  gpu::launch(cuda, conv_kernel<T>, blocks_for(cuda, sequences.tokens), threads, 0, conv, y);
  if (states != nullptr && taps > 1)
    gpu::launch(cuda, conv_states_kernel<T>, blocks_for(cuda, sequences.number), threads, 0, conv, states);
}

template <class D, class T>
void causal_conv_gradient(const D& cuda, const Sequences& sequences, const T* x, const Acc<T>* weight,
                          const Acc<T>* bias, const T* dy, T* dx, Acc<T>* dweight, Acc<T>* dbias, std::int64_t channels,
                          std::int64_t taps, const T* states, T* dstates) {
  using A = Acc<T>;
  if (channels == 0) return;
  const Conv<T> conv{sequences, x, weight, bias, states, channels, static_cast<int>(taps)};
  if (sequences.tokens > 0)
    gpu::launch(cuda, conv_gradient_kernel<T>, blocks_for(cuda, sequences.tokens),
                threads_for_row(channels, usual_threads), 0, conv, dy, dx);
  if (sequences.tokens > 0 && dstates != nullptr)
    gpu::launch(cuda, conv_states_gradient_kernel<T>, blocks_for(cuda, sequences.number),
                threads_for_row(channels, usual_threads), 0, conv, dy, dstates);
  // As many channels at a time as there is scratch memory for.
  const std::int64_t num_parts = parts_of_rows(sequences.tokens);
  const std::int64_t strip = std::int64_t{CudaState::workspace_bytes / sizeof(A)} / (1024 * (most_taps + 1)) - 1;
  Scratch scratch(cuda);
  A* const weight_parts = scratch.take<A>(num_parts * std::min(strip, channels) * taps);
  A* const bias_parts = scratch.take<A>(num_parts * std::min(strip, channels));
  for (std::int64_t first = 0; first < channels; first += strip) {
    const std::int64_t n = std::min(strip, channels - first);
    if (num_parts > 0)
      gpu::launch(cuda, conv_weight_kernel<T>,
                  dim3(static_cast<unsigned>(ceil_div(n, usual_threads)), static_cast<unsigned>(num_parts)),
                  dim3(usual_threads), 0, conv, dy, rows_of_part(sequences.tokens), first, n, weight_parts, bias_parts);
    if (dweight != nullptr) sum_parts(cuda, weight_parts, num_parts, n * taps, false, dweight + first * taps, n * taps);
    if (dbias != nullptr) sum_parts(cuda, bias_parts, num_parts, n, false, dbias + first, n);
  }
}

#define LIMBECK_INSTANTIATE(T)                                                                                        \
  template void causal_conv(const Cuda&, const Sequences&, const T*, const Acc<T>*, const Acc<T>*, T*, T*,            \
                            std::int64_t, std::int64_t);                                                              \
  template void causal_conv_gradient(const Cuda&, const Sequences&, const T*, const Acc<T>*, const Acc<T>*, const T*, \
                                     T*, Acc<T>*, Acc<T>*, std::int64_t, std::int64_t, const T*, T*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
