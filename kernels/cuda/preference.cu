#include "kernels/preference.h"

#include "kernels/cuda/reduce.cuh"
#include "kernels/distillation.h"

namespace limbeck::kernels {
namespace {

/// A block to a pair.
__global__ void preference_kernel(const double* each, const std::int32_t* document, const std::int64_t* offsets,
                                  std::int64_t n, double beta, double* token_weights, double* of_pairs) {
  for (std::int64_t i = blockIdx.x; i < n; i += gridDim.x) {
    const std::int64_t begin = offsets[i] + threadIdx.x, end = offsets[i + 1];
    double chosen = 0, rejected = 0;
    for (std::int64_t t = begin; t < end; t += blockDim.x) {
      const double* token = each + t * num_loss_columns;
      const double reward = beta * (token[LossTeacherCe] - token[LossCe]);
      chosen += document[t] == 0 ? reward : 0;
      rejected += document[t] == 1 ? reward : 0;
    }
    chosen = block_sum(chosen);
    rejected = block_sum(rejected);
    double row[num_preference_columns];
    const double weight = preference_row(chosen, rejected, beta, row);
    for (std::int64_t t = begin; t < end; t += blockDim.x)
      token_weights[t] = document[t] == 0 ? weight : document[t] == 1 ? -weight : 0;
    if (threadIdx.x > 0) continue;
    for (int c = 0; c < num_preference_columns; ++c) of_pairs[i * num_preference_columns + c] = row[c];
  }
}

}  // namespace

template <class D>
void preference(const D& cuda, const double* each, const std::int32_t* document, const std::int64_t* offsets,
                std::int64_t n, double beta, double* token_weights, double* of_pairs) {
  if (n == 0) return;
  gpu::launch(cuda, preference_kernel, blocks_for(cuda, n), dim3(usual_threads), 0, each, document, offsets, n, beta,
              token_weights, of_pairs);
}

template void preference(const Cuda&, const double*, const std::int32_t*, const std::int64_t*, std::int64_t, double,
                         double*, double*);

}  // namespace limbeck::kernels
