#include <cmath>
#include <limits>

#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/distillation.h"
#include "kernels/loss_row.h"

namespace limbeck::kernels {
namespace {

struct NegateWhereMaximal {
  const double* own;
  const double* of_all;
  double* indices;
  template <int N>
  __device__ void run(std::int64_t i) const {
    indices[i] = own[i] == of_all[i] ? -indices[i] : -std::numeric_limits<double>::infinity();
  }
};

/// One block, whose threads take rows in turn.
template <class T>
__global__ void add_losses_kernel(LogitsRows<T> rows, LossTerms terms, const double* indices, const double* sums,
                                  const double* divergence, const double* parts, TokenWeight token_weight,
                                  double* totals, double* each) {
  double of_thread[num_loss_totals] = {};
  for (std::int64_t i = threadIdx.x; i < rows.n; i += blockDim.x) {
    LossRow row{};
    if (rows.targets[i] >= 0)
      row = loss_row(sums + i * num_logits_sums, divergence == nullptr ? nullptr : divergence + i * num_divergence_sums,
                     rows.teacher != nullptr, terms, rows.temperature, indices[i] == indices[rows.n + i],
                     parts + i * num_gradient_sums);
#pragma unroll
    for (int c = 0; c < num_loss_columns; ++c) {
      of_thread[c] += row.columns[c];
      if (each != nullptr) each[i * num_loss_columns + c] = row.columns[c];
    }
    of_thread[LossObjective] += token_weight.get(i) * row.objective;
    of_thread[LossCeSquare] += row.ce_square;
    of_thread[LossDivergenceSquare] += row.divergence_square;
  }
#pragma unroll
  for (int c = 0; c < num_loss_totals; ++c) {
    const double sum = block_sum(of_thread[c]);
    if (threadIdx.x == 0) totals[c] += sum;
  }
}

}  // namespace

template <class D>
void negate_where_maximal(const D& cuda, const double* own, const double* of_all, double* indices, std::int64_t n) {
  for_each_vector<1>(cuda, n, NegateWhereMaximal{own, of_all, indices}, own, of_all, indices);
}

template <class D, class T>
void add_losses(const D& cuda, const LogitsRows<T>& rows, const LossTerms& terms, const double* indices,
                const double* sums, const double* divergence, const double* parts, TokenWeight weight, double* totals,
                double* each) {
  if (rows.n > 0)
    gpu::launch(cuda, add_losses_kernel<T>, dim3(1), dim3(usual_threads), 0, rows, terms, indices, sums, divergence,
                parts, weight, totals, each);
}

template void negate_where_maximal(const Cuda&, const double*, const double*, double*, std::int64_t);
template void add_losses(const Cuda&, const LogitsRows<float>&, const LossTerms&, const double*, const double*,
                         const double*, const double*, TokenWeight, double*, double*);
template void add_losses(const Cuda&, const LogitsRows<double>&, const LossTerms&, const double*, const double*,
                         const double*, const double*, TokenWeight, double*, double*);

}  // namespace limbeck::kernels
