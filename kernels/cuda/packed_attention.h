// Causal attention of sequences that lie one behind the other: the form in which libraries know attention.
//
//     if (packed_attention_forward(cuda, problem, q, k, v, out, logsumexp)) return;
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cuda/cuda.h"

namespace limbeck::kernels {

/// What a plan is made for.
struct PackedShape {
  std::int64_t num_heads = 0, num_kv_heads = 0, width = 0, value_width = 0;
  double scale = 1;
  std::int64_t sequences = 0;  // of which some may be empty
  std::int64_t longest = 0;    // no sequence is longer
  std::int64_t tokens = 0;     // all of them have no more
  friend auto operator<=>(const PackedShape&, const PackedShape&) = default;
};

/// Where the sequences lie, on the device: their lengths, and for each tensor the number of its value that a sequence
/// begins with; entry [sequences] is behind the last.
struct PackedPlaces {
  const std::int32_t* lengths = nullptr;                                        // [sequences]
  const std::int64_t *q = nullptr, *k = nullptr, *v = nullptr, *out = nullptr;  // [sequences+1]
  const std::int64_t* rows = nullptr;                                           // [sequences+1], of [T,H]
};

struct PackedForward {
  const bf16 *q, *k, *v;
  bf16* out;
  float* logsumexp;
};
struct PackedBackward {
  const bf16 *q, *k, *v, *out;
  const float* logsumexp;
  const bf16* dout;
  bf16 *dq, *dk, *dv;  // written, not added to
};

/// As attention_forward, for problems without a window whose runs are known (AttentionProblem::run_offsets). False, and
/// nothing is done, where the library does not take the problem on this GPU.
bool packed_attention_forward(const Cuda& cuda, const AttentionProblem& problem, const bf16* q, const bf16* k,
                              const bf16* v, bf16* out, float* logsumexp);

/// As attention_backward, likewise; but the library rounds dq, dk and dv once before they are added.
bool packed_attention_backward(const Cuda& cuda, const AttentionProblem& problem, const bf16* q, const bf16* k,
                               const bf16* v, const bf16* out, const float* logsumexp, const bf16* dout, float* dq,
                               float* dk, float* dv);

}  // namespace limbeck::kernels
