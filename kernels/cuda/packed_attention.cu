#include "kernels/cuda/packed_attention.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "attention_library.h"
#include "gpu.h"
#include "kernels/cuda/grid.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/elementwise.h"

namespace limbeck::kernels {
namespace {

/// Sequence s is run s; behind the last run they are empty.
__global__ void places_kernel(const std::int64_t* offsets, std::int64_t runs, const PackedShape shape,
                              std::int32_t* lengths, std::int64_t* q, std::int64_t* k, std::int64_t* v,
                              std::int64_t* out, std::int64_t* rows) {
  const std::int64_t s = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (s > shape.sequences) return;
  const std::int64_t begin = offsets[s < runs ? s : runs];
  if (s < shape.sequences) lengths[s] = static_cast<std::int32_t>(s < runs ? offsets[s + 1] - begin : 0);
  q[s] = begin * shape.num_heads * shape.width;
  k[s] = begin * shape.num_kv_heads * shape.width;
  v[s] = begin * shape.num_kv_heads * shape.value_width;
  out[s] = begin * shape.num_heads * shape.value_width;
  rows[s] = begin * shape.num_heads;
}

PackedPlaces find_places(const Cuda& cuda, const AttentionProblem& p, const PackedShape& shape) {
  Scratch scratch(cuda);
  auto* lengths = scratch.take<std::int32_t>(shape.sequences);
  std::int64_t* places[5];
  for (std::int64_t*& of : places) of = scratch.take<std::int64_t>(shape.sequences + 1);
  gpu::launch(cuda, places_kernel, dim3(static_cast<unsigned>(ceil_div(shape.sequences + 1, usual_threads))),
              dim3(usual_threads), 0, p.run_offsets, p.num_runs, shape, lengths, places[0], places[1], places[2],
              places[3], places[4]);
  return {lengths, places[0], places[1], places[2], places[3], places[4]};
}

/// The next power of two: a plan serves all that have the same.
std::int64_t rounded(std::int64_t n) {
  return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(n, 1))));
}

PackedShape shape_of(const AttentionProblem& p) {
  return {.num_heads = p.num_heads,
          .num_kv_heads = p.num_kv_heads,
          .width = p.width,
          .value_width = p.value_width,
          .scale = p.scale,
          .sequences = rounded(p.num_runs),
          .longest = rounded(p.longest_run),
          .tokens = rounded(p.num_queries)};
}

/// Rows of whole vectors of 16 bytes, from places that are multiples of them: what libraries copy. Runs of no tokens,
/// which fill up their number, are not taken by every library.
template <class... T>
bool is_packed(const AttentionProblem& p, const T*... memory) {
  return p.run_offsets != nullptr && p.key_pages == nullptr && p.window == 0 && p.num_runs > 0 && p.num_queries >= 0 &&
         p.num_heads > 0 && p.width % 16 == 0 && p.value_width % 16 == 0 &&
         (takes_empty_sequences() || rounded(p.num_runs) == p.num_runs) && are_aligned<8>(memory...);
}

/// What a library works in fits what is kept for it: the choice depends on the shape alone.
bool fits(std::optional<std::int64_t> bytes) {
  return bytes && *bytes <= static_cast<std::int64_t>(CudaState::pieces_bytes);
}

}  // namespace

bool packed_attention_forward(const Cuda& cuda, const AttentionProblem& p, const bf16* q, const bf16* k, const bf16* v,
                              bf16* out, float* logsumexp) {
  if (!is_packed(p, q, k, v, out)) return false;
  const PackedShape shape = shape_of(p);
  if (!fits(forward_workspace(cuda, shape))) return false;
  run_forward(cuda, shape, find_places(cuda, p, shape), {q, k, v, out, logsumexp}, cuda.state->pieces());
  return true;
}

bool packed_attention_backward(const Cuda& cuda, const AttentionProblem& p, const bf16* q, const bf16* k, const bf16* v,
                               const bf16* out, const float* logsumexp, const bf16* dout, float* dq, float* dk,
                               float* dv) {
  if (!is_packed(p, q, k, v, out, dout)) return false;
  const PackedShape shape = shape_of(p);
  const std::int64_t of_q = p.num_queries * p.num_heads * p.width;
  const std::int64_t of_k = p.num_queries * p.num_kv_heads * p.width;
  const std::int64_t of_v = p.num_queries * p.num_kv_heads * p.value_width;
  const auto workspace = backward_workspace(cuda, shape);
  if (!workspace) return false;
  const std::int64_t behind = ceil_div(*workspace, 256) * 256;
  if (!fits(behind + (of_q + of_k + of_v) * static_cast<std::int64_t>(sizeof(bf16)))) return false;
  auto* const room = static_cast<std::byte*>(cuda.state->pieces());
  auto* const rounded_dq = reinterpret_cast<bf16*>(room + behind);
  bf16 *const rounded_dk = rounded_dq + of_q, *const rounded_dv = rounded_dk + of_k;
  run_backward(cuda, shape, find_places(cuda, p, shape),
               {q, k, v, out, logsumexp, dout, rounded_dq, rounded_dk, rounded_dv}, room);
  add_to(cuda, rounded_dq, dq, of_q);
  add_to(cuda, rounded_dk, dk, of_k);
  add_to(cuda, rounded_dv, dv, of_v);
  return true;
}

}  // namespace limbeck::kernels
