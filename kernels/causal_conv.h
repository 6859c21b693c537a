// A convolution along the tokens of each channel by itself, and SiLU (core/ops/causal_conv.h).
//
//     causal_conv(cpu, sequences, x, weight, bias, states, y, C, K);
//     causal_conv_gradient(cpu, sequences, x, weight, bias, dy, dx, dweight, dbias, C, K);
//
// T is float, double or bf16; sums and arithmetic are in Acc<T>, each result rounded once. Derivation:
// docs/gradients.md.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"
#include "kernels/sequences.h"

namespace limbeck::kernels {

inline constexpr std::int64_t most_taps = 8;  // K

/// y[t,c] = silu(bias[c] + Σ_k weight[c,k] x[t-K+1+k,c]) of x [T,C], weight [C,K]; what is before a document is 0.
/// `bias` [C] may be null. A sequence with a slot goes on from the last K-1 rows of x in states [S,K-1,C], which
/// become those that it ends with.
template <class D, class T>
void causal_conv(const D& device, const Sequences& sequences, const T* x, const Acc<T>* weight, const Acc<T>* bias,
                 T* states, T* y, std::int64_t channels, std::int64_t taps);

/// With g = dy silu'(what silu was of): dx[t,c] = Σ_k weight[c,k] g[t+K-1-k,c],
/// dweight[c,k] = Σ_t g[t,c] x[t-K+1+k,c], dbias[c] = Σ_t g[t,c], the sums over tokens in one order whatever the number
/// of threads. Overwrites all three; dweight and dbias may be null. Sequences with slots go on from states [S,K-1,C],
/// and their gradients, as of values in front of x, overwrite `dstates`; rows of sequences without tokens stay as they
/// are.
template <class D, class T>
void causal_conv_gradient(const D& device, const Sequences& sequences, const T* x, const Acc<T>* weight,
                          const Acc<T>* bias, const T* dy, T* dx, Acc<T>* dweight, Acc<T>* dbias, std::int64_t channels,
                          std::int64_t taps, const T* states = nullptr, T* dstates = nullptr);

}  // namespace limbeck::kernels
