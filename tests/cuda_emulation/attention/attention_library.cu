#include "attention_library.h"

#include <cmath>

#include "gpu.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t workspace_bytes = 1024;
constexpr unsigned threads = 32;

__device__ float dot(const bf16* a, const bf16* b, std::int64_t n) {
  float sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += as<float>(a[i]) * as<float>(b[i]);
  return sum;
}

/// A sequence's token and head: rows of the tensors that they begin with.
struct Head {
  const PackedShape& shape;
  const PackedPlaces& places;
  std::int64_t sequence, head;
  __device__ std::int64_t kv_head() const { return head / (shape.num_heads / shape.num_kv_heads); }
  __device__ std::int64_t q(std::int64_t i) const {
    return places.q[sequence] + (i * shape.num_heads + head) * shape.width;
  }
  __device__ std::int64_t k(std::int64_t i) const {
    return places.k[sequence] + (i * shape.num_kv_heads + kv_head()) * shape.width;
  }
  __device__ std::int64_t v(std::int64_t i) const {
    return places.v[sequence] + (i * shape.num_kv_heads + kv_head()) * shape.value_width;
  }
  __device__ std::int64_t out(std::int64_t i) const {
    return places.out[sequence] + (i * shape.num_heads + head) * shape.value_width;
  }
  __device__ std::int64_t row(std::int64_t i) const { return places.rows[sequence] + i * shape.num_heads + head; }
};

/// The workspace is the library's: what is there is lost.
__global__ void use_kernel(std::uint8_t* workspace) {
  for (std::int64_t i = threadIdx.x; i < workspace_bytes; i += blockDim.x) workspace[i] = 0xff;
}

__global__ void forward_kernel(const PackedShape shape, const PackedPlaces places, const PackedForward t) {
  const Head at{shape, places, blockIdx.x, blockIdx.y};
  const auto scale = static_cast<float>(shape.scale);
  for (std::int64_t i = threadIdx.x; i < places.lengths[at.sequence]; i += blockDim.x) {
    float greatest = -HUGE_VALF, sum = 0;
    for (std::int64_t j = 0; j <= i; ++j)
      greatest = fmaxf(greatest, scale * dot(t.q + at.q(i), t.k + at.k(j), shape.width));
    for (std::int64_t j = 0; j <= i; ++j)
      sum += expf(scale * dot(t.q + at.q(i), t.k + at.k(j), shape.width) - greatest);
    t.logsumexp[at.row(i)] = greatest + logf(sum);
    for (std::int64_t c = 0; c < shape.value_width; ++c) {
      float result = 0;
      for (std::int64_t j = 0; j <= i; ++j) {
        const float score = scale * dot(t.q + at.q(i), t.k + at.k(j), shape.width);
        result += as<float>(as<bf16>(expf(score - greatest))) * as<float>(t.v[at.v(j) + c]);
      }
      t.out[at.out(i) + c] = as<bf16>(result / sum);
    }
  }
}

/// Probability, and the gradient of the scaled score, of query i and key j.
struct Pair {
  float probability, gradient;
};
__device__ Pair pair_of(const Head& at, const PackedBackward& t, std::int64_t i, std::int64_t j) {
  const PackedShape& shape = at.shape;
  const auto scale = static_cast<float>(shape.scale);
  const float probability = expf(scale * dot(t.q + at.q(i), t.k + at.k(j), shape.width) - t.logsumexp[at.row(i)]);
  const float mean = dot(t.dout + at.out(i), t.out + at.out(i), shape.value_width);
  return {probability, probability * (dot(t.dout + at.out(i), t.v + at.v(j), shape.value_width) - mean)};
}

__global__ void query_gradient_kernel(const PackedShape shape, const PackedPlaces places, const PackedBackward t) {
  const Head at{shape, places, blockIdx.x, blockIdx.y};
  const std::int64_t length = places.lengths[at.sequence];
  for (std::int64_t i = threadIdx.x; i < length; i += blockDim.x)
    for (std::int64_t c = 0; c < shape.width; ++c) {
      float sum = 0;
      for (std::int64_t j = 0; j <= i; ++j) sum += pair_of(at, t, i, j).gradient * as<float>(t.k[at.k(j) + c]);
      t.dq[at.q(i) + c] = as<bf16>(sum * static_cast<float>(shape.scale));
    }
}

__global__ void key_gradient_kernel(const PackedShape shape, const PackedPlaces places, const PackedBackward t) {
  const std::int64_t heads = shape.num_heads / shape.num_kv_heads, first = blockIdx.y * heads;
  const Head of_group{shape, places, blockIdx.x, first};
  const std::int64_t length = places.lengths[of_group.sequence];
  for (std::int64_t j = threadIdx.x; j < length; j += blockDim.x) {
    for (std::int64_t c = 0; c < shape.width; ++c) {
      float sum = 0;
      for (std::int64_t h = first; h < first + heads; ++h)
        for (std::int64_t i = j; i < length; ++i) {
          const Head at{shape, places, of_group.sequence, h};
          sum += pair_of(at, t, i, j).gradient * as<float>(t.q[at.q(i) + c]);
        }
      t.dk[of_group.k(j) + c] = as<bf16>(sum * static_cast<float>(shape.scale));
    }
    for (std::int64_t c = 0; c < shape.value_width; ++c) {
      float sum = 0;
      for (std::int64_t h = first; h < first + heads; ++h)
        for (std::int64_t i = j; i < length; ++i) {
          const Head at{shape, places, of_group.sequence, h};
          sum += pair_of(at, t, i, j).probability * as<float>(t.dout[at.out(i) + c]);
        }
      t.dv[of_group.v(j) + c] = as<bf16>(sum);
    }
  }
}

dim3 a_block_each(const PackedShape& shape, std::int64_t heads) {
  return dim3(static_cast<unsigned>(shape.sequences), static_cast<unsigned>(heads));
}

bool takes(const PackedShape& shape) { return shape.width <= 128 && shape.value_width <= 128; }

void use(const Cuda& cuda, void* workspace) {
  gpu::launch(cuda, use_kernel, dim3(1), dim3(threads), 0, static_cast<std::uint8_t*>(workspace));
}

}  // namespace

bool takes_empty_sequences() { return true; }

std::optional<std::int64_t> forward_workspace(const Cuda&, const PackedShape& shape) {
  return takes(shape) ? std::optional(workspace_bytes) : std::nullopt;
}

std::optional<std::int64_t> backward_workspace(const Cuda& cuda, const PackedShape& shape) {
  return forward_workspace(cuda, shape);
}

void run_forward(const Cuda& cuda, const PackedShape& shape, const PackedPlaces& places, const PackedForward& tensors,
                 void* workspace) {
  use(cuda, workspace);
  gpu::launch(cuda, forward_kernel, a_block_each(shape, shape.num_heads), dim3(threads), 0, shape, places, tensors);
}

void run_backward(const Cuda& cuda, const PackedShape& shape, const PackedPlaces& places, const PackedBackward& tensors,
                  void* workspace) {
  use(cuda, workspace);
  gpu::launch(cuda, query_gradient_kernel, a_block_each(shape, shape.num_heads), dim3(threads), 0, shape, places,
              tensors);
  gpu::launch(cuda, key_gradient_kernel, a_block_each(shape, shape.num_kv_heads), dim3(threads), 0, shape, places,
              tensors);
}

}  // namespace limbeck::kernels
