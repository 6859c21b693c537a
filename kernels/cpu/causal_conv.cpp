#include "kernels/causal_conv.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/token_runs.h"
#include "kernels/sigmoid.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t strip_columns = 128;  // channels that a loop has at once

template <class T>
struct Conv {
  using A = Acc<T>;
  const Sequences& sequences;
  const T* x;
  const A *weight, *bias;
  const T* states;
  std::int64_t channels, taps;

  /// The row that lies `back` in front of token t, which may be the one behind the run; null: zeros.
  const T* row(const TokenRun& run, std::int64_t t, std::int64_t back) const {
    if (t - back >= run.begin) return x + (t - back) * channels;
    const std::int64_t before = back - (t - run.begin);  // in front of the run
    if (!run.is_first || states == nullptr) return nullptr;
    return states + (sequences.slots[run.sequence] * (taps - 1) + taps - 1 - before) * channels;
  }
};

/// Of some channels.
template <class T>
struct Strip {
  using A = Acc<T>;
  const Conv<T>& conv;
  std::int64_t first, n;
  alignas(64) A weight[most_taps][strip_columns];
  alignas(64) A sum[strip_columns];

  Strip(const Conv<T>& of, std::int64_t begin)
      : conv(of), first(begin), n(std::min(strip_columns, of.channels - begin)) {
    for (std::int64_t k = 0; k < conv.taps; ++k)
      for (std::int64_t c = 0; c < n; ++c) weight[k][c] = conv.weight[(first + c) * conv.taps + k];
  }
  /// sum: what silu is of.
  void convolve(const TokenRun& run, std::int64_t t) {
    for (std::int64_t c = 0; c < n; ++c) sum[c] = conv.bias == nullptr ? A(0) : conv.bias[first + c];
    for (std::int64_t k = 0; k < conv.taps; ++k) {
      const T* row = conv.row(run, t, conv.taps - 1 - k);
      if (row == nullptr) continue;
      row += first;
#pragma omp simd
      for (std::int64_t c = 0; c < n; ++c) sum[c] += weight[k][c] * as<A>(row[c]);
    }
  }
};

/// The gradients of some channels: a thread has all tokens of them, one after the other.
template <class T>
class StripGradient {
 public:
  using A = Acc<T>;

  StripGradient(const Conv<T>& conv, std::int64_t first, const T* dy, T* dx, T* dstates)
      : strip_(conv, first), dy_(dy), dx_(dx), dstates_(dstates) {}

  void run(const TokenRun& run) {
    // The first token whose gradient is asked for: with a state the earliest of its rows.
    const std::int64_t past = strip_.conv.taps - 1;
    const std::int64_t first = dstates_ != nullptr && run.is_first ? run.begin - past : run.begin;
    for (std::int64_t t = run.begin; t < run.end; ++t) {
      differentiate(run, t);
      if (t - past >= first) write(run, t - past);
    }
    for (std::int64_t t = std::max(first, run.end - past); t < run.end; ++t) write(run, t);
  }
  void write_sums(A* dweight, A* dbias) {
    flush();
    const std::int64_t taps = strip_.conv.taps;
    for (std::int64_t c = 0; c < strip_.n; ++c) {
      for (std::int64_t k = 0; k < taps && dweight != nullptr; ++k)
        dweight[(strip_.first + c) * taps + k] = total_[k][c];
      if (dbias != nullptr) dbias[strip_.first + c] = total_[most_taps][c];
    }
  }

 private:
  /// The gradient of what silu is of, at token t, and what it adds to the sums.
  void differentiate(const TokenRun& run, std::int64_t t) {
    strip_.convolve(run, t);
    A* const g = gradient_[t % most_taps];
    const T* const dy = dy_ + t * strip_.conv.channels + strip_.first;
    const A* const v = strip_.sum;
    A* const bias_part = part_[most_taps];
#pragma omp simd
    for (std::int64_t c = 0; c < strip_.n; ++c) {
      const A s = sigmoid(v[c]);
      g[c] = as<A>(dy[c]) * s * (1 + v[c] * (1 - s));
      bias_part[c] += g[c];
    }
    for (std::int64_t k = 0; k < strip_.conv.taps; ++k) {
      const T* row = strip_.conv.row(run, t, strip_.conv.taps - 1 - k);
      if (row == nullptr) continue;
      row += strip_.first;
#pragma omp simd
      for (std::int64_t c = 0; c < strip_.n; ++c) part_[k][c] += g[c] * as<A>(row[c]);
    }
    if (++summed_ == summed_rows) flush();
  }
  /// dx of token t, or the gradient of the state's row that lies as far in front of the run: the tokens that read it
  /// have been differentiated.
  void write(const TokenRun& run, std::int64_t t) {
    const std::int64_t taps = strip_.conv.taps;
    alignas(64) A sum[strip_columns] = {};
    for (std::int64_t k = 0; k < taps; ++k) {
      const std::int64_t reader = t + taps - 1 - k;
      if (reader < run.begin || reader >= run.end) continue;
      const A* const g = gradient_[reader % most_taps];
#pragma omp simd
      for (std::int64_t c = 0; c < strip_.n; ++c) sum[c] += strip_.weight[k][c] * g[c];
    }
    T* const row = t >= run.begin ? dx_ + t * strip_.conv.channels : state_gradient(run, run.begin - t);
    for (std::int64_t c = 0; c < strip_.n; ++c) row[strip_.first + c] = as<T>(sum[c]);
  }
  T* state_gradient(const TokenRun& run, std::int64_t before) const {
    const Conv<T>& conv = strip_.conv;
    return dstates_ + (conv.sequences.slots[run.sequence] * (conv.taps - 1) + conv.taps - 1 - before) * conv.channels;
  }
  /// Sums go over blocks of tokens, then over the blocks.
  void flush() {
    for (std::int64_t k = 0; k <= most_taps; ++k)
      for (std::int64_t c = 0; c < strip_columns; ++c) {
        total_[k][c] += part_[k][c];
        part_[k][c] = 0;
      }
    summed_ = 0;
  }

  Strip<T> strip_;
  const T* dy_;
  T *dx_, *dstates_;
  std::int64_t summed_ = 0;
  alignas(64) A gradient_[most_taps][strip_columns];  // of the last tokens, by their number
  alignas(64) A part_[most_taps + 1][strip_columns] = {};
  alignas(64) A total_[most_taps + 1][strip_columns] = {};
};

/// Rows of states: the last rows of x that a sequence ends with.
template <class T>
void write_state(const Conv<T>& conv, const TokenRun& last, T* states) {
  const std::int64_t rows = conv.taps - 1, slot = conv.sequences.slots[last.sequence];
  for (std::int64_t k = 0; k < rows; ++k) {  // none is written that is read later
    const T* const from = conv.row(last, last.end, rows - k);
    T* const to = states + (slot * rows + k) * conv.channels;
    if (from == nullptr)
      std::fill_n(to, conv.channels, as<T>(0.F));
    else
      std::copy_n(from, conv.channels, to);
  }
}

}  // namespace

template <class D, class T>
void causal_conv(const D& cpu, const Sequences& sequences, const T* x, const Acc<T>* weight, const Acc<T>* bias,
                 T* states, T* y, std::int64_t channels, std::int64_t taps) {
  const std::vector<TokenRun> runs = token_runs(sequences);
  const Conv<T> conv{sequences, x, weight, bias, states, channels, taps};
  parallel_for(cpu, sequences.tokens, 1 + (1 << 12) / (channels + 1), [&](std::int64_t begin, std::int64_t end) {
    const auto first = std::upper_bound(runs.begin(), runs.end(), begin,
                                        [](std::int64_t t, const TokenRun& run) { return t < run.end; });
    for (std::int64_t c = 0; c < channels; c += strip_columns) {
      Strip<T> strip(conv, c);
      auto run = first;
      for (std::int64_t t = begin; t < end; ++t) {
        if (t == run->end) ++run;
        strip.convolve(*run, t);
        T* const row = y + t * channels + c;
#pragma omp simd
        for (std::int64_t i = 0; i < strip.n; ++i) row[i] = as<T>(strip.sum[i] * sigmoid(strip.sum[i]));
      }
    }
  });
  if (states == nullptr || taps == 1) return;
  for_each_task(cpu, std::ssize(runs), [&](std::int64_t i) {
    const TokenRun& run = runs[i];
    if (run.end == sequences.offsets[run.sequence + 1]) write_state(conv, run, states);
  });
}

template <class D, class T>
void causal_conv_gradient(const D& cpu, const Sequences& sequences, const T* x, const Acc<T>* weight,
                          const Acc<T>* bias, const T* dy, T* dx, Acc<T>* dweight, Acc<T>* dbias, std::int64_t channels,
                          std::int64_t taps, const T* states, T* dstates) {
  const std::vector<TokenRun> runs = token_runs(sequences);
  const Conv<T> conv{sequences, x, weight, bias, states, channels, taps};
  for_each_task(cpu, (channels + strip_columns - 1) / strip_columns, [&](std::int64_t i) {
    StripGradient<T> strip(conv, i * strip_columns, dy, dx, dstates);
    for (const TokenRun& run : runs) strip.run(run);
    strip.write_sums(dweight, dbias);
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                                       \
  template void causal_conv(const Cpu&, const Sequences&, const T*, const Acc<T>*, const Acc<T>*, T*, T*,            \
                            std::int64_t, std::int64_t);                                                             \
  template void causal_conv_gradient(const Cpu&, const Sequences&, const T*, const Acc<T>*, const Acc<T>*, const T*, \
                                     T*, Acc<T>*, Acc<T>*, std::int64_t, std::int64_t, const T*, T*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
