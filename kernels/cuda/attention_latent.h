// Attention without a gradient whose values lie in the keys, in heads up to 576 wide: that of latents with what widens
// them absorbed (core/nn/latent_attention.h), in which all query heads share one head of keys.
//
//     if (latent_tensor_cores_take(problem, {q, k, out}))
//       return attention_latent_mma(cuda, problem, q, k, out, lse, sinks);
//     attention_latent(cuda, problem, q, k, out, lse, sinks);
//
// What a token of H heads asks of T keys of width D in bfloat16 is 2 T D bytes, of which each is to be read once, and
// 2 T H (D + Dv) FLOPs. DeepSeek-V3's 128 heads of 576 and 512 have 242 FLOPs a byte, and V2-Lite's 16 have 30; an H100
// has 295: reading is the floor of both.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "kernels/attention.h"
#include "kernels/cuda/cuda.h"

namespace limbeck::kernels {

constexpr std::int64_t widest_latent = 576;

/// Whether attention_latent_mma takes the problem: widths are multiples of 8, values at most 512 wide, the scale is
/// above 0, and what the pointers point to begins at multiples of 16 bytes.
bool latent_tensor_cores_take(const AttentionProblem& problem, std::initializer_list<const void*> pointers);

void attention_latent_mma(const Cuda& cuda, const AttentionProblem& problem, const bf16* q, const bf16* k, bf16* out,
                          float* logsumexp, const float* sinks);

/// Plain arithmetic, of any widths up to widest_latent; beyond it throws.
template <class T>
void attention_latent(const Cuda& cuda, const AttentionProblem& problem, const T* q, const T* k, T* out,
                      Acc<T>* logsumexp, const Acc<T>* sinks);

}  // namespace limbeck::kernels
