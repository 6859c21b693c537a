// Attention of bfloat16 on the tensor cores (mma), with sums in float32.
//
//     if (tensor_cores_take(problem, {q, k, v, out})) return attention_forward_mma(cuda, problem, q, k, v, out, lse);
//
// Powers are of 2: e^(scale s - m) is 2^(scale log2(e) s - m log2(e)), one fused multiplication and the processor's
// approximation, whose error is 2 units of float32's last place. A result is one block's alone and summed in the order
// of the keys, or of the query heads and their queries, so that runs repeat bit for bit; where few queries have many
// keys, parts of the keys are summed apart and then in their order.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "kernels/attention.h"
#include "kernels/cuda/cuda.h"

namespace limbeck::kernels {

/// Whether these kernels take the problem: widths are multiples of 8 up to 256, the scale is above 0, and what the
/// pointers point to begins at multiples of 16 bytes.
bool tensor_cores_take(const AttentionProblem& problem, std::initializer_list<const void*> pointers);

void attention_forward_mma(const Cuda& cuda, const AttentionProblem& problem, const bf16* q, const bf16* k,
                           const bf16* v, bf16* out, float* logsumexp, const float* sinks);

void attention_backward_mma(const Cuda& cuda, const AttentionProblem& problem, const bf16* q, const bf16* k,
                            const bf16* v, const bf16* out, const float* logsumexp, const bf16* dout, float* dq,
                            float* dk, float* dv);

}  // namespace limbeck::kernels
