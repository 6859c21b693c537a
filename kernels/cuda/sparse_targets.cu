#include "kernels/sparse_targets.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/grid.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/sparse_row.h"

namespace limbeck::kernels {
namespace {

// A block to a row. Sums are double.

/// The column of a row's entry in this part; -1 where it is in another, or none.
template <class T>
__device__ std::int64_t own_column(const SparseRows<T>& rows, std::int64_t i, std::int64_t j) {
  const std::int32_t id = rows.ids[i * rows.width + j];
  const std::int64_t column = id - rows.logits.offset;
  return id >= 0 && column >= 0 && column < rows.logits.num_valid ? column : -1;
}

template <class T>
struct OwnSums {
  double all = 0, kept = 0, difference = 0, mass = 0;

  __device__ void add(T e) { all += static_cast<double>(e); }
  /// Of a kept token, whose exponential `e` is, bit for bit, the one that is among all.
  __device__ void keep(T e, double z, double log_p, bool draws) {
    kept += static_cast<double>(e);
    const double p = draws ? log_p : std::exp(log_p);
    difference += draws ? -p * z : p * (log_p - z);
    mass += p;
  }
  __device__ void write(double* out) {
    all = block_sum(all);
    kept = block_sum(kept);
    difference = block_sum(difference);
    mass = block_sum(mass);
    if (threadIdx.x > 0) return;
    out[SparseRest] = all > kept ? all - kept : 0;
    out[SparseKept] = kept;
    out[SparseDifference] = difference;
    out[SparseMass] = mass;
  }
};

template <class T>
__global__ void __launch_bounds__(most_row_threads, 1)
    sparse_sums_kernel(SparseRows<T> rows, const double* student_max, T* kept, double* sums) {
  const LogitsRows<T>& logits = rows.logits;
  const bool draws = rows.kind == SparseKind::Sampled, is_tempered = logits.temperature != 1;
  const T inverse = static_cast<T>(1 / logits.temperature);
  for (std::int64_t i = blockIdx.x; i < logits.n; i += gridDim.x) {
    double* out = sums + i * num_sparse_sums;
    const bool is_skipped = logits.targets[i] < 0;
    const T* student = logits.student + i * logits.columns;
    const T greatest = static_cast<T>(student_max[i]);
    OwnSums<T> plain, tempered;
    for (std::int64_t c = threadIdx.x; c < logits.num_valid && !is_skipped; c += blockDim.x) {
      const T z = student[c] - greatest;
      plain.add(std::exp(z));
      if (is_tempered) tempered.add(std::exp(z * inverse));
    }
    for (std::int64_t j = threadIdx.x; j < rows.width; j += blockDim.x) {
      const std::int64_t column = is_skipped ? -1 : own_column(rows, i, j);
      const T z = column < 0 ? T{0} : student[column] - greatest;
      kept[i * rows.width + j] = z;
      if (column < 0) continue;
      const std::int64_t at = i * rows.width + j;
      plain.keep(std::exp(z), static_cast<double>(z), static_cast<double>(rows.plain.log_p[at]), draws);
      if (is_tempered)
        tempered.keep(std::exp(z * inverse), static_cast<double>(z) / logits.temperature,
                      static_cast<double>(rows.tempered.log_p[at]), draws);
    }
    plain.write(out);
    if (is_tempered) tempered.write(out + SparseTempered);
    if (threadIdx.x > 0) continue;
    if (!is_tempered)
      for (std::int64_t s = 0; s < SparseTempered; ++s) out[SparseTempered + s] = out[s];
    const std::int64_t target = logits.targets[i] - logits.offset;
    out[SparseTarget] = !is_skipped && target >= 0 && target < logits.num_valid
                            ? static_cast<double>(student[target]) - student_max[i]
                            : 0;
  }
}

/// The divergence's gradient of a token that is not kept.
template <class T>
__device__ T of_other(T factor, T z, bool is_tempered, T inverse) {
  return factor * std::exp(is_tempered ? z * inverse : z);
}

template <class T, class G>
__global__ void __launch_bounds__(most_row_threads, 1)
    sparse_gradient_kernel(SparseRows<T> rows, const T* kept, const double* student_max, const double* sums,
                           double alpha, TokenWeight token_weight, G* dlogits, double* parts) {
  const LogitsRows<T>& logits = rows.logits;
  const double weight = token_weight.get(), kl = (1 - alpha) * logits.temperature * weight;
  const bool draws = rows.kind == SparseKind::Sampled, is_tempered = logits.temperature != 1;
  const T inverse = static_cast<T>(1 / logits.temperature);
  for (std::int64_t i = blockIdx.x; i < logits.n; i += gridDim.x) {
    G* d = dlogits != nullptr ? dlogits + i * logits.columns : nullptr;
    const bool is_skipped = logits.targets[i] < 0;
    const std::int64_t n = is_skipped ? 0 : logits.num_valid;
    if (d != nullptr)
      for (std::int64_t c = n + threadIdx.x; c < logits.columns; c += blockDim.x) d[c] = G{};
    double least = 0, ce_square = 0, divergence_square = 0, of_target = 0;
    if (!is_skipped) {
      const double* sum = sums + i * num_sparse_sums;
      const double q = 1 / (sum[SparseRest] + sum[SparseKept]);
      const auto factors = sparse_factors(rows.kind, sum + SparseTempered, static_cast<double>(rows.tempered.rest[i]));
      const std::int64_t target = logits.targets[i] - logits.offset;
      if (d != nullptr) {
        const T* student = logits.student + i * logits.columns;
        const T greatest = static_cast<T>(student_max[i]), ce = static_cast<T>(alpha * weight),
                of_ce = static_cast<T>(alpha * weight * q), of_others = static_cast<T>(kl * factors.others);
        for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) {
          const T z = student[c] - greatest;
          T value = of_ce * std::exp(z);
          const T divergence = of_other(of_others, z, is_tempered, inverse);
          ce_square += static_cast<double>(value) * static_cast<double>(value);
          divergence_square += static_cast<double>(divergence) * static_cast<double>(divergence);
          value += divergence;
          if (c == target) value -= ce;
          d[c] = as<G>(value);
        }
        if (target >= 0 && target < n) of_target = sparse_target_square(alpha * weight, sum);
        __syncthreads();  // kept tokens are written again
      }
      for (std::int64_t j = threadIdx.x; j < rows.width; j += blockDim.x) {
        const std::int64_t column = own_column(rows, i, j);
        if (column < 0) continue;
        const std::int64_t at = i * rows.width + j;
        const auto z = static_cast<double>(kept[at]);
        const double of_student = q * std::exp(z);
        if (!draws) {
          const double p = std::exp(static_cast<double>(rows.plain.log_p[at]));
          least += p < of_student ? p : of_student;
        }
        if (d == nullptr) continue;
        const auto of_teacher = static_cast<double>(rows.tempered.log_p[at]);
        const double p = draws ? of_teacher : std::exp(of_teacher);
        const double divergence = kl * (factors.student * std::exp(z / logits.temperature) - factors.teacher * p);
        // It was added as one of the others: the same number, so that nothing of it is left.
        const auto other =
            static_cast<double>(of_other(static_cast<T>(kl * factors.others), kept[at], is_tempered, inverse));
        divergence_square += divergence * divergence - other * other;
        T value = static_cast<T>(alpha * weight * of_student + divergence);
        if (column == target) value -= static_cast<T>(alpha * weight);
        d[column] = as<G>(value);
      }
    }
    least = block_sum(least);
    ce_square = block_sum(ce_square);
    divergence_square = block_sum(divergence_square);
    if (threadIdx.x > 0) continue;
    double* const part = parts + i * num_gradient_sums;
    part[SumMin] = least;
    part[CeSquare] = ce_square + of_target;
    part[DivergenceSquare] = divergence_square > 0 ? divergence_square : 0;
  }
}

/// One block, whose threads take rows in turn.
template <class T>
__global__ void add_sparse_losses_kernel(SparseRows<T> rows, const double* indices, const double* sums,
                                         const double* parts, double alpha, TokenWeight token_weight, double* totals,
                                         double* each) {
  const double weight = token_weight.get();
  double of_thread[num_loss_totals] = {};
  for (std::int64_t i = threadIdx.x; i < rows.logits.n; i += blockDim.x) {
    SparseLossRow row{};
    if (rows.logits.targets[i] >= 0)
      row = sparse_loss_row(rows, i, sums + i * num_sparse_sums, indices[i], parts + i * num_gradient_sums, alpha);
#pragma unroll
    for (int c = 0; c < num_loss_columns; ++c) {
      of_thread[c] += row.columns[c];
      if (each != nullptr) each[i * num_loss_columns + c] = row.columns[c];
    }
    of_thread[LossObjective] += weight * row.objective;
    of_thread[LossCeSquare] += row.ce_square;
    of_thread[LossDivergenceSquare] += row.divergence_square;
  }
#pragma unroll
  for (int c = 0; c < num_loss_totals; ++c) {
    const double sum = block_sum(of_thread[c]);
    if (threadIdx.x == 0) totals[c] += sum;
  }
}

template <class T>
dim3 threads_for(const SparseRows<T>& rows) {
  return threads_for_row(std::max(ceil_div(rows.logits.num_valid, 4), rows.width));
}

}  // namespace

template <class D, class T>
void sparse_sums(const D& cuda, const SparseRows<T>& rows, const double* student_max, T* kept, double* sums) {
  if (rows.logits.n == 0) return;
  gpu::launch(cuda, sparse_sums_kernel<T>, blocks_for(cuda, rows.logits.n), threads_for(rows), 0, rows, student_max,
              kept, sums);
}

template <class D, class T, class G>
void sparse_gradient(const D& cuda, const SparseRows<T>& rows, const T* kept, const double* student_max,
                     const double* sums, double alpha, TokenWeight weight, G* dlogits, double* parts) {
  if (rows.logits.n == 0) return;
  gpu::launch(cuda, sparse_gradient_kernel<T, G>, blocks_for(cuda, rows.logits.n), threads_for(rows), 0, rows, kept,
              student_max, sums, alpha, weight, dlogits, parts);
}

template <class D, class T>
void add_sparse_losses(const D& cuda, const SparseRows<T>& rows, const double* indices, const double* sums,
                       const double* parts, double alpha, TokenWeight weight, double* totals, double* each) {
  if (rows.logits.n == 0) return;
  gpu::launch(cuda, add_sparse_losses_kernel<T>, dim3(1), dim3(usual_threads), 0, rows, indices, sums, parts, alpha,
              weight, totals, each);
}

#define LIMBECK_INSTANTIATE(T)                                                                                    \
  template void sparse_sums(const Cuda&, const SparseRows<T>&, const double*, T*, double*);                       \
  template void add_sparse_losses(const Cuda&, const SparseRows<T>&, const double*, const double*, const double*, \
                                  double, TokenWeight, double*, double*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

#define LIMBECK_INSTANTIATE_GRADIENT(T, G)                                                                         \
  template void sparse_gradient(const Cuda&, const SparseRows<T>&, const T*, const double*, const double*, double, \
                                TokenWeight, G*, double*);
LIMBECK_INSTANTIATE_GRADIENT(float, float)
LIMBECK_INSTANTIATE_GRADIENT(double, double)
LIMBECK_INSTANTIATE_GRADIENT(float, bf16)

}  // namespace limbeck::kernels
