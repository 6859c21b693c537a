#include "kernels/sparse_targets.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/in_place.h"
#include "kernels/cpu/larger.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/exp.h"
#include "kernels/sparse_row.h"

namespace limbeck::kernels {
namespace {

// Sums are T within a block and double across blocks.
constexpr std::int64_t block = 512;

/// The kept tokens of a row that lie in the part: entries [first, last) of its ids.
template <class T>
struct OwnEntries {
  const std::int32_t* ids;
  std::int64_t first, last;
  OwnEntries(const SparseRows<T>& rows, std::int64_t i) : ids(rows.ids + i * rows.width) {
    const std::int32_t* end = std::find(ids, ids + rows.width, -1);
    first = std::lower_bound(ids, end, rows.logits.offset) - ids;
    last = std::lower_bound(ids + first, end, rows.logits.offset + rows.logits.num_valid) - ids;
  }
};

struct Shares {
  double rest = 0, kept = 0;
};

/// Sums of exp((x - greatest) * inverse), of kept columns apart: the others' sum is of positive terms alone, however
/// little is left for them.
template <class T>
Shares sum_row(const SparseRows<T>& rows, std::int64_t i, const OwnEntries<T>& own, T greatest, T inverse) {
  alignas(64) T e[block];
  const T* x = rows.logits.student + i * rows.logits.columns;
  Shares sums;
  std::int64_t entry = own.first;
  for (std::int64_t begin = 0; begin < rows.logits.num_valid; begin += block) {
    const std::int64_t count = std::min(block, rows.logits.num_valid - begin);
#pragma omp simd
    for (std::int64_t j = 0; j < count; ++j) e[j] = exponential((x[begin + j] - greatest) * inverse);
    for (; entry < own.last && own.ids[entry] - rows.logits.offset < begin + count; ++entry) {
      T& of_kept = e[own.ids[entry] - rows.logits.offset - begin];
      sums.kept += static_cast<double>(of_kept);
      of_kept = 0;
    }
    T rest = 0;
#pragma omp simd reduction(+ : rest)
    for (std::int64_t j = 0; j < count; ++j) rest += e[j];
    sums.rest += static_cast<double>(rest);
  }
  return sums;
}

template <class T>
void put_sums(const SparseRows<T>& rows, std::int64_t i, const OwnEntries<T>& own, const T* kept, double greatest,
              const SparseSide<T>& side, double temperature, double* out) {
  const Shares shares = sum_row(rows, i, own, static_cast<T>(greatest), static_cast<T>(1 / temperature));
  out[SparseRest] = shares.rest;
  out[SparseKept] = shares.kept;
  double difference = 0, mass = 0;
  for (std::int64_t j = own.first; j < own.last; ++j) {
    const auto log_p = static_cast<double>(side.log_p[i * rows.width + j]);
    const double z = static_cast<double>(kept[j]) / temperature;
    const double p = rows.kind == SparseKind::Sampled ? log_p : std::exp(log_p);
    difference += rows.kind == SparseKind::Sampled ? -p * z : p * (log_p - z);
    mass += p;
  }
  out[SparseDifference] = difference;
  out[SparseMass] = mass;
}

}  // namespace

template <class D, class T>
void sparse_sums(const D& cpu, const SparseRows<T>& rows, const double* student_max, T* kept, double* sums) {
  const LogitsRows<T>& logits = rows.logits;
  parallel_for(cpu, logits.n, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      double* out = sums + i * num_sparse_sums;
      std::fill_n(out, num_sparse_sums, 0.0);
      T* z = kept + i * rows.width;
      std::fill_n(z, rows.width, T{0});
      if (logits.targets[i] < 0) continue;
      const OwnEntries<T> own(rows, i);
      const T* student = logits.student + i * logits.columns;
      for (std::int64_t j = own.first; j < own.last; ++j)
        z[j] = student[own.ids[j] - logits.offset] - static_cast<T>(student_max[i]);
      put_sums(rows, i, own, z, student_max[i], rows.plain, 1, out);
      if (logits.temperature == 1)
        std::copy_n(out, SparseTempered, out + SparseTempered);
      else
        put_sums(rows, i, own, z, student_max[i], rows.tempered, logits.temperature, out + SparseTempered);
      const std::int64_t target = logits.targets[i] - logits.offset;
      if (target >= 0 && target < logits.num_valid)
        out[SparseTarget] = static_cast<double>(student[target]) - student_max[i];
    }
  });
}

template <class D, class T, class G>
void sparse_gradient(const D& cpu, const SparseRows<T>& rows, const T* kept, const double* student_max,
                     const double* sums, double alpha, TokenWeight token_weight, G* dlogits, double* parts) {
  const LogitsRows<T>& logits = rows.logits;
  const std::int64_t n = logits.num_valid;
  const double weight = token_weight.get();
  const bool draws = rows.kind == SparseKind::Sampled, is_tempered = logits.temperature != 1;
  const auto inverse = static_cast<T>(1 / logits.temperature);
  parallel_for(cpu, logits.n, 1, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) T values[block], of_divergence[block];
    for (std::int64_t i = begin; i < end; ++i) {
      double* part = parts + i * num_gradient_sums;
      G* d = dlogits == nullptr ? nullptr : dlogits + i * logits.columns;
      std::fill_n(part, num_gradient_sums, 0.0);
      if (d != nullptr) std::fill(d + n, d + logits.columns, G{});
      if (logits.targets[i] < 0) {
        if (d != nullptr) std::fill_n(d, n, G{});
        continue;
      }
      const double* sum = sums + i * num_sparse_sums;
      const OwnEntries<T> own(rows, i);
      const T* z = kept + i * rows.width;
      const double q = 1 / (sum[SparseRest] + sum[SparseKept]);
      for (std::int64_t j = own.first; j < own.last && !draws; ++j) {
        const double p = std::exp(static_cast<double>(rows.plain.log_p[i * rows.width + j]));
        const double of_student = q * std::exp(static_cast<double>(z[j]));
        part[SumMin] += p < of_student ? p : of_student;
      }
      if (d == nullptr) continue;
      const double kl = (1 - alpha) * logits.temperature * weight;
      const auto factors = sparse_factors(rows.kind, sum + SparseTempered, static_cast<double>(rows.tempered.rest[i]));
      const auto ce = static_cast<T>(alpha * weight), of_ce = static_cast<T>(alpha * weight * q),
                 of_others = static_cast<T>(kl * factors.others), greatest = static_cast<T>(student_max[i]);
      const std::int64_t target = logits.targets[i] - logits.offset;
      const T* student = logits.student + i * logits.columns;
      std::int64_t entry = own.first;
      for (std::int64_t first = 0; first < n; first += block) {
        const std::int64_t count = std::min(block, n - first);
        T* to = in_place_or(values, d + first);
        const T* x = student + first;
        T ce_square = 0, divergence_square = 0;
        if (is_tempered) {
#pragma omp simd
          for (std::int64_t j = 0; j < count; ++j)
            of_divergence[j] = of_others * exponential((x[j] - greatest) * inverse);
#pragma omp simd reduction(+ : ce_square)
          for (std::int64_t j = 0; j < count; ++j) {
            to[j] = of_ce * exponential(x[j] - greatest);
            ce_square += to[j] * to[j];
          }
        } else {
#pragma omp simd reduction(+ : ce_square)
          for (std::int64_t j = 0; j < count; ++j) {
            const T e = exponential(x[j] - greatest);
            of_divergence[j] = of_others * e;
            to[j] = of_ce * e;
            ce_square += to[j] * to[j];
          }
        }
        for (; entry < own.last && own.ids[entry] - logits.offset < first + count; ++entry) {
          const auto of_teacher = static_cast<double>(rows.tempered.log_p[i * rows.width + entry]);
          const double p = draws ? of_teacher : std::exp(of_teacher);
          const auto from = static_cast<double>(z[entry]);
          of_divergence[own.ids[entry] - logits.offset - first] =
              static_cast<T>(kl * (factors.student * std::exp(from / logits.temperature) - factors.teacher * p));
        }
#pragma omp simd reduction(+ : divergence_square)
        for (std::int64_t j = 0; j < count; ++j) {
          divergence_square += of_divergence[j] * of_divergence[j];
          to[j] += of_divergence[j];
        }
        part[CeSquare] += ce_square;
        part[DivergenceSquare] += divergence_square;
        if (target >= first && target < first + count) {
          to[target - first] -= ce;
          part[CeSquare] += sparse_target_square(alpha * weight, sum);
        }
        if constexpr (!std::is_same_v<G, T>) {
#pragma omp simd
          for (std::int64_t j = 0; j < count; ++j) d[first + j] = as<G>(values[j]);
        }
      }
    }
  });
}

template <class D, class T>
void add_sparse_losses(const D&, const SparseRows<T>& rows, const double* indices, const double* sums,
                       const double* parts, double alpha, TokenWeight token_weight, double* totals, double* each) {
  const double weight = token_weight.get();
  for (std::int64_t i = 0; i < rows.logits.n; ++i) {
    const bool counts = rows.logits.targets[i] >= 0;
    SparseLossRow row{};
    if (counts)
      row = sparse_loss_row(rows, i, sums + i * num_sparse_sums, indices[i], parts + i * num_gradient_sums, alpha);
    for (std::int64_t c = 0; c < num_loss_columns; ++c) {
      totals[c] += row.columns[c];
      if (each != nullptr) each[i * num_loss_columns + c] = row.columns[c];
    }
    totals[LossObjective] += weight * row.objective;
    totals[LossCeSquare] += row.ce_square;
    totals[LossDivergenceSquare] += row.divergence_square;
  }
}

#define LIMBECK_INSTANTIATE(T)                                                                                   \
  template void sparse_sums(const Cpu&, const SparseRows<T>&, const double*, T*, double*);                       \
  template void add_sparse_losses(const Cpu&, const SparseRows<T>&, const double*, const double*, const double*, \
                                  double, TokenWeight, double*, double*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

#define LIMBECK_INSTANTIATE_GRADIENT(T, G)                                                                        \
  template void sparse_gradient(const Cpu&, const SparseRows<T>&, const T*, const double*, const double*, double, \
                                TokenWeight, G*, double*);
LIMBECK_INSTANTIATE_GRADIENT(float, float)
LIMBECK_INSTANTIATE_GRADIENT(double, double)
LIMBECK_INSTANTIATE_GRADIENT(float, bf16)

}  // namespace limbeck::kernels
