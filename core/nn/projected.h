// The products of a layer's activations with its weights: by the weight as it is, or with what an adapter adds to it.
//
//     const std::vector<Var> made = enter_projected(tape, pass, x, {{q, q_bias}, {k, k_bias}});    // [T,H*D], [T,G*D]
//     const Var latent = projected(tape, pass, x, *kv_a);                                     // [T,C] -> [T,R]
//     const Var risen = projected_by_experts(tape, rows, *up, offsets);                       // [R,C] -> [R,F]
//     return exit_projected(tape, pass, attended, *o, o_bias);                                // [T,H*D] -> [T,C]
//
// An adapter's part is scale (x A^T) B^T: W and B A are never added, but where somebody reads the weight itself.
#pragma once

#include <vector>

#include "core/nn/pass.h"

namespace limbeck::nn {

/// By Pass::products, but for the adapter's part, whose products are as activations are.
Var projected(Tape& tape, const Pass& pass, const Var& x /*[T,in]*/, const Parameter& weight /*[out,in]*/,
              const Parameter* bias = nullptr /*[out]*/);

struct Projection {
  const Parameter* weight;          // [out,in]
  const Parameter* bias = nullptr;  // [out]
};

/// projected by each of them, [T,out], of what enter_stream gives of x (core/nn/stream.h), which nothing else reads.
/// Where no weight has an adapter its gradient is summed in Pass::tensor_chunks, and with Pass::sequence_parallel it is
/// gathered in as many.
std::vector<Var> enter_projected(Tape& tape, const Pass& pass, const Var& x /*[T,in]*/,
                                 const std::vector<Projection>& projections);

/// exit_stream of it (core/nn/stream.h), in Pass::tensor_chunks where the weight has no adapter; and the bias, which is
/// whole on every rank, is added once.
Var exit_projected(Tape& tape, const Pass& pass, const Var& x /*[T,in]*/, const Parameter& weight /*[C,in]*/,
                   const Parameter* bias = nullptr /*[C]*/);

/// Of rows that are sorted by expert (core/ops/grouped_linear.h).
Var projected_by_experts(Tape& tape, const Var& rows /*[R,in]*/, const Parameter& weight /*[E,out,in]*/,
                         const Tensor& offsets /*[E+1] int64*/);

/// The weight with what its adapter adds, [out,in], of its dtype. Not recorded.
Tensor merged(const Parameter& weight);

}  // namespace limbeck::nn
