#include "kernels/distillation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cuda/grid.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/loss_row.h"

namespace limbeck::kernels {
namespace {

// A block to a row. A thread has two vectors under way at a time; sums are T over these and double beyond.
constexpr int batch = 2;

/// f(c, count) for the thread's vectors of a row of n columns, `batch` of them at a time: the first of each is at c,
/// the next at c + next, and so on.
template <int N, class F>
__device__ void for_each_batch(int n, F f) {
  const int next = static_cast<int>(blockDim.x) * N;
  for (int c = static_cast<int>(threadIdx.x) * N; c < n; c += batch * next) f(c, next);
}

template <class T>
using Batch = Values<T, vector_length<T>>[batch];

template <bool Whole, class T>
__device__ void load_batch(const T* row, int c, int next, int n, Batch<T>& x) {
  constexpr int N = vector_length<T>;
#pragma unroll
  for (int b = 0; b < batch; ++b)
    x[b] = c + b * next < n ? load<N, Whole>(row + c + b * next, n - c - b * next) : Values<T, N>{};
}

/// f(b, j) for the elements of the batch that the row has.
template <bool Whole, int N, class F>
__device__ void for_each_element(int c, int next, int n, F f) {
#pragma unroll
  for (int b = 0; b < batch; ++b)
#pragma unroll
    for (int j = 0; j < N; ++j)
      if (c + b * next + (Whole ? 0 : j) < n) f(b, j);
}

/// The greatest value and the lowest column that has it.
template <class T>
struct Maximum {
  T value;
  int column;
  __device__ void take(T other, int at) {
    if (other > value || (other == value && at < column)) {
      value = other;
      column = at;
    }
  }
};

template <class T, bool Whole>
__global__ void __launch_bounds__(most_row_threads, 1)
    maxima_kernel(LogitsRows<T> rows, const T* logits, double* maximum, double* index) {
  constexpr int N = vector_length<T>;
  __shared__ T values[32];
  __shared__ int columns[32];
  const int n = static_cast<int>(rows.num_valid);
  const unsigned lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  for (std::int64_t i = blockIdx.x; i < rows.n; i += gridDim.x) {
    const T* row = logits + i * rows.columns;
    Maximum<T> of_thread{-std::numeric_limits<T>::infinity(), n};
    for_each_batch<N>(n, [&](int c, int next) {
      Batch<T> x;
      load_batch<Whole>(row, c, next, n, x);
      for_each_element<false, N>(c, next, n, [&](int b, int j) { of_thread.take(x[b][j], c + b * next + j); });
    });
    const auto of_lanes = [](Maximum<T> m) {
      for (int distance = 16; distance > 0; distance /= 2) {
        const T value = __shfl_xor_sync(full_warp, m.value, distance);
        m.take(value, __shfl_xor_sync(full_warp, m.column, distance));
      }
      return m;
    };
    Maximum<T> all = of_lanes(of_thread);
    __syncthreads();
    if (lane == 0) values[warp] = all.value;
    if (lane == 0) columns[warp] = all.column;
    __syncthreads();
    const bool is_there = lane < blockDim.x / warp_size;
    all = of_lanes({is_there ? values[lane] : -std::numeric_limits<T>::infinity(), is_there ? columns[lane] : n});
    if (threadIdx.x > 0) continue;
    maximum[i] = static_cast<double>(all.value);
    index[i] = static_cast<double>(rows.offset + all.column);
  }
}

/// Sums of exponentials of z = (logit - maximum) * inverse temperature.
template <class T>
struct Sums {
  T shared = 0, teacher = 0, difference = 0;
  /// Returns that of the student, which is in `shared` unless the teacher lacks the column.
  __device__ T add(T zs, T zt, bool has_teacher, bool lacks) {
    const T of_student = std::exp(zs);
    shared += lacks ? T(0) : of_student;
    if (!has_teacher) return of_student;
    const T e = std::exp(zt);
    teacher += e;
    difference += e * (zt - zs);
    return of_student;
  }
};

struct RowSums {
  double shared = 0, teacher = 0, difference = 0;
  template <class T>
  __device__ void add(const Sums<T>& part) {
    shared += static_cast<double>(part.shared);
    teacher += static_cast<double>(part.teacher);
    difference += static_cast<double>(part.difference);
  }
  __device__ void over_block() {
    shared = block_sum(shared);
    teacher = block_sum(teacher);
    difference = block_sum(difference);
  }
};

template <class T, bool Whole, bool Tempered>
__global__ void __launch_bounds__(most_row_threads, 1)
    sums_kernel(LogitsRows<T> rows, const double* student_max, const double* teacher_max, double* sums) {
  constexpr int N = vector_length<T>;
  const int n = static_cast<int>(rows.num_valid);
  const T inverse = static_cast<T>(1 / rows.temperature);
  const bool has_teacher = rows.teacher != nullptr;
  for (std::int64_t i = blockIdx.x; i < rows.n; i += gridDim.x) {
    double* out = sums + i * num_logits_sums;
    const std::int64_t target = rows.targets[i] - rows.offset;
    if (rows.targets[i] < 0) {
      if (threadIdx.x < num_logits_sums) out[threadIdx.x] = 0;
      continue;
    }
    const T* student = rows.student + i * rows.columns;
    const T* teacher = has_teacher ? rows.teacher + i * rows.columns : student;
    const T smax = static_cast<T>(student_max[i]), tmax = static_cast<T>(teacher_max[i]);
    RowSums plain, tempered;
    double all_student = 0;
    for_each_batch<N>(n, [&](int c, int next) {
      Batch<T> s, t;
      load_batch<Whole>(student, c, next, n, s);
      load_batch<Whole>(teacher, c, next, n, t);
      Sums<T> of_plain, of_tempered;
      T of_student = 0;
      for_each_element<Whole, N>(c, next, n, [&](int b, int j) {
        const T zs = s[b][j] - smax, zt = t[b][j] - tmax;
        const bool lacks = has_teacher && is_lacking(t[b][j]);
        of_student += of_plain.add(zs, zt, has_teacher, lacks);
        if constexpr (Tempered) of_tempered.add(zs * inverse, zt * inverse, has_teacher, lacks);
      });
      all_student += static_cast<double>(of_student);
      plain.add(of_plain);
      if constexpr (Tempered) tempered.add(of_tempered);
    });
    all_student = block_sum(all_student);
    plain.over_block();
    if constexpr (Tempered)
      tempered.over_block();
    else
      tempered = plain;
    if (threadIdx.x > 0) continue;
    const bool is_here = target >= 0 && target < n;
    out[StudentSum] = all_student;
    out[StudentSumShared] = plain.shared;
    out[TeacherSum] = plain.teacher;
    out[Difference] = plain.difference;
    out[StudentSumTempered] = tempered.shared;
    out[TeacherSumTempered] = tempered.teacher;
    out[DifferenceTempered] = tempered.difference;
    out[StudentTarget] = is_here ? static_cast<double>(student[target]) - student_max[i] : 0;
    out[TeacherTarget] = is_here && has_teacher ? static_cast<double>(teacher[target]) - teacher_max[i] : 0;
  }
}

/// What GradientSum names of a thread's columns, the least of a batch alone.
template <class T>
struct GradientParts {
  T least = 0, ce = 0, divergence = 0;
  double all_least = 0;
  __device__ void end_batch() {
    all_least += static_cast<double>(least);
    least = 0;
  }
  /// Of all threads, to parts [num_gradient_sums]; `of_target` is more of the square of cross-entropy's gradient.
  __device__ void store(double* parts, double of_target, bool has_gradient) const {
    const double min = block_sum(all_least), of_ce = block_sum(static_cast<double>(ce)),
                 of_divergence = block_sum(static_cast<double>(divergence));
    if (threadIdx.x > 0) return;
    parts[SumMin] = min;
    parts[CeSquare] = has_gradient ? of_ce + of_target : 0;
    parts[DivergenceSquare] = has_gradient ? of_divergence : 0;
  }
};

/// What the gradient of a row takes besides its logits: factors of their exponentials, and weights of the two parts.
template <class T>
struct GradientRow {
  T student_max, teacher_max, inverse;
  T q, p, q_shared, q_tempered, p_tempered;  // 1 / the sums of exponentials
  T ce, kl;
  __device__ GradientRow(const LogitsRows<T>& rows, double smax, double tmax, const double* sum, const LossTerms& terms,
                         double weight)
      : student_max(static_cast<T>(smax)),
        teacher_max(static_cast<T>(tmax)),
        inverse(static_cast<T>(1 / rows.temperature)),
        q(static_cast<T>(1 / sum[StudentSum])),
        p(static_cast<T>(1 / sum[TeacherSum])),
        q_shared(static_cast<T>(1 / sum[StudentSumShared])),
        q_tempered(static_cast<T>(1 / sum[StudentSumTempered])),
        p_tempered(static_cast<T>(1 / sum[TeacherSumTempered])),
        ce(static_cast<T>(terms.ce * weight)),
        kl(static_cast<T>(terms.divergence * rows.temperature * weight)) {}

  /// The gradient of a logit that is not the target's. Adds to what GradientSum names.
  template <bool Tempered>
  __device__ T gradient(T student, T teacher, bool has_teacher, GradientParts<T>& parts) const {
    const T zs = student - student_max;
    const T e = std::exp(zs);
    const T of_ce = ce * (q * e);
    if (!has_teacher) return of_ce;
    const T zt = teacher - teacher_max;
    const T of_teacher = p * std::exp(zt);
    const bool lacks = is_lacking(teacher);
    const T shared = lacks ? T(0) : q_shared * e;
    parts.least += of_teacher < shared ? of_teacher : shared;
    T apart = shared - of_teacher;
    if constexpr (Tempered) {
      const T tempered = lacks ? T(0) : q_tempered;
      apart = std::fma(tempered, std::exp(zs * inverse), -(p_tempered * std::exp(zt * inverse)));
    }
    apart *= kl;
    parts.ce = std::fma(of_ce, of_ce, parts.ce);
    parts.divergence = std::fma(apart, apart, parts.divergence);
    return of_ce + apart;
  }
};

/// Tempered distributions of a row, for divergences.
template <class T>
struct TemperedRow {
  T student_max, teacher_max, inverse;
  T log_sum_apart;       // log of the student's sum of exponentials less log of the teacher's
  T q_factor, p_factor;  // 1 / the sums
  __device__ TemperedRow(const LogitsRows<T>& rows, double smax, double tmax, const double* sum)
      : student_max(static_cast<T>(smax)),
        teacher_max(static_cast<T>(tmax)),
        inverse(static_cast<T>(1 / rows.temperature)),
        log_sum_apart(static_cast<T>(std::log(sum[StudentSumTempered]) - std::log(sum[TeacherSumTempered]))),
        q_factor(static_cast<T>(1 / sum[StudentSumTempered])),
        p_factor(static_cast<T>(1 / sum[TeacherSumTempered])) {}

  template <Divergence Kind>
  __device__ DivergenceTerm<T> term(T student, T teacher, T mix, T& q) const {
    // The difference of equal logits is 0, however products and sums are fused.
    const T zs = student - student_max, zt = teacher - teacher_max;
    q = is_lacking(teacher) ? T(0) : q_factor * std::exp(zs * inverse);
    return divergence_term<Kind>(p_factor * std::exp(zt * inverse), q, (zs - zt) * inverse - log_sum_apart, mix);
  }
};

template <Divergence Kind, class T, bool Whole>
__global__ void __launch_bounds__(most_row_threads, 1)
    divergence_sums_kernel(LogitsRows<T> rows, T mix, const double* student_max, const double* teacher_max,
                           const double* sums, double* divergence) {
  constexpr int N = vector_length<T>;
  const int n = static_cast<int>(rows.num_valid);
  for (std::int64_t i = blockIdx.x; i < rows.n; i += gridDim.x) {
    double* out = divergence + i * num_divergence_sums;
    if (rows.targets[i] < 0) {
      if (threadIdx.x < num_divergence_sums) out[threadIdx.x] = 0;
      continue;
    }
    const T* student = rows.student + i * rows.columns;
    const T* teacher = rows.teacher + i * rows.columns;
    const TemperedRow<T> row(rows, student_max[i], teacher_max[i], sums + i * num_logits_sums);
    double value = 0, pull = 0;
    for_each_batch<N>(n, [&](int c, int next) {
      Batch<T> s, t;
      load_batch<Whole>(student, c, next, n, s);
      load_batch<Whole>(teacher, c, next, n, t);
      T of_batch = 0, pull_of_batch = 0;
      for_each_element<Whole, N>(c, next, n, [&](int b, int j) {
        T q;
        const DivergenceTerm<T> term = row.template term<Kind>(s[b][j], t[b][j], mix, q);
        of_batch += term.value;
        pull_of_batch += term.pull;
      });
      value += static_cast<double>(of_batch);
      pull += static_cast<double>(pull_of_batch);
    });
    value = block_sum(value);
    pull = block_sum(pull);
    if (threadIdx.x > 0) continue;
    out[DivergenceValue] = value;
    out[DivergencePull] = pull;
  }
}

/// The gradient of cross-entropy and of a divergence with sums of its own.
template <Divergence Kind, class T, class G, bool Whole>
__global__ void __launch_bounds__(most_row_threads, 1)
    divergence_gradient_kernel(LogitsRows<T> rows, LossTerms terms, const double* student_max,
                               const double* teacher_max, const double* sums, const double* divergence,
                               TokenWeight token_weight, G* dlogits, double* parts) {
  constexpr int N = vector_length<T>;
  const int n = static_cast<int>(rows.num_valid), columns = static_cast<int>(rows.columns);
  const T mix = static_cast<T>(terms.mix);
  const LossTerms plain{terms.ce, 0};
  for (std::int64_t i = blockIdx.x; i < rows.n; i += gridDim.x) {
    G* d = dlogits + i * rows.columns;
    const bool is_skipped = rows.targets[i] < 0;
    for (int c = (is_skipped ? 0 : n) + static_cast<int>(threadIdx.x); c < columns; c += static_cast<int>(blockDim.x))
      d[c] = G{};
    double* const of_row = parts + i * num_gradient_sums;
    if (is_skipped) {
      if (threadIdx.x < num_gradient_sums) of_row[threadIdx.x] = 0;
      continue;
    }
    const T* student = rows.student + i * rows.columns;
    const T* teacher = rows.teacher + i * rows.columns;
    const double* sum = sums + i * num_logits_sums;
    const std::int64_t target = rows.targets[i] - rows.offset;
    const double weight = token_weight.get(i);
    const T of_divergence = static_cast<T>(terms.divergence * rows.temperature * weight);
    const GradientRow<T> row(rows, student_max[i], teacher_max[i], sum, plain, weight);
    const TemperedRow<T> tempered(rows, student_max[i], teacher_max[i], sum);
    const T all_pulls = static_cast<T>(divergence[i * num_divergence_sums + DivergencePull]);
    GradientParts<T> all;
    for_each_batch<N>(n, [&](int c, int next) {
      Batch<T> s, t;
      load_batch<Whole>(student, c, next, n, s);
      load_batch<Whole>(teacher, c, next, n, t);
      for_each_element<Whole, N>(c, next, n, [&](int b, int j) {
        T q;
        const T pull = tempered.template term<Kind>(s[b][j], t[b][j], mix, q).pull;
        const T added = of_divergence * (pull - q * all_pulls);
        s[b][j] = row.template gradient<false>(s[b][j], t[b][j], true, all) + added;
        all.divergence = std::fma(added, added, all.divergence);
        if (c + b * next + j == target) s[b][j] -= row.ce;
      });
      all.end_batch();
#pragma unroll
      for (int b = 0; b < batch; ++b)
        if (c + b * next < n) store<Whole>(d + c + b * next, s[b], n - c - b * next);
    });
    all.store(of_row, target >= 0 && target < n ? target_square(terms.ce * weight, sum) : 0, true);
  }
}

template <class T, class G, bool Whole, bool Tempered>
__global__ void __launch_bounds__(most_row_threads, 1)
    gradient_kernel(LogitsRows<T> rows, LossTerms terms, const double* student_max, const double* teacher_max,
                    const double* sums, TokenWeight token_weight, G* dlogits, double* parts) {
  constexpr int N = vector_length<T>;
  const double of_all = token_weight.get();  // here, for in the loop it takes registers
  const int n = static_cast<int>(rows.num_valid), columns = static_cast<int>(rows.columns);
  const bool has_teacher = rows.teacher != nullptr;
  for (std::int64_t i = blockIdx.x; i < rows.n; i += gridDim.x) {
    G* d = dlogits != nullptr ? dlogits + i * rows.columns : nullptr;
    const bool is_skipped = rows.targets[i] < 0;
    if (d != nullptr)
      for (int c = (is_skipped ? 0 : n) + static_cast<int>(threadIdx.x); c < columns; c += static_cast<int>(blockDim.x))
        d[c] = G{};
    double* const of_row = parts + i * num_gradient_sums;
    if (is_skipped || (d == nullptr && !has_teacher)) {
      if (threadIdx.x < num_gradient_sums) of_row[threadIdx.x] = 0;
      continue;
    }
    const T* student = rows.student + i * rows.columns;
    const T* teacher = has_teacher ? rows.teacher + i * rows.columns : student;
    const std::int64_t target = rows.targets[i] - rows.offset;
    const double weight = token_weight.rows == nullptr ? of_all : of_all * token_weight.rows[i];
    const GradientRow<T> row(rows, student_max[i], teacher_max[i], sums + i * num_logits_sums, terms, weight);
    GradientParts<T> all;
    for_each_batch<N>(n, [&](int c, int next) {
      Batch<T> s, t;
      load_batch<Whole>(student, c, next, n, s);
      load_batch<Whole>(teacher, c, next, n, t);
      for_each_element<Whole, N>(c, next, n, [&](int b, int j) {
        s[b][j] = row.template gradient<Tempered>(s[b][j], t[b][j], has_teacher, all);
        if (c + b * next + j == target) s[b][j] -= row.ce;
      });
      all.end_batch();
      if (d == nullptr) return;
#pragma unroll
      for (int b = 0; b < batch; ++b)
        if (c + b * next < n) store<Whole>(d + c + b * next, s[b], n - c - b * next);
    });
    const bool is_here = has_teacher && target >= 0 && target < n;
    all.store(of_row, is_here ? target_square(terms.ce * weight, sums + i * num_logits_sums) : 0, d != nullptr);
  }
}

template <class T>
dim3 threads_for(const LogitsRows<T>& rows) {
  return threads_for_row(ceil_div(rows.num_valid, vector_length<T>));
}

template <class T, class... P>
bool are_whole(const LogitsRows<T>& rows, const P*... p) {
  constexpr int N = vector_length<T>;
  return rows.num_valid % N == 0 && are_rows_aligned<N>(rows.columns, p...);
}

}  // namespace

template <class D, class T>
void logits_maxima(const D& cuda, const LogitsRows<T>& rows, const T* logits, double* maximum, double* index) {
  if (rows.n == 0) return;
  gpu::launch(cuda, are_whole(rows, logits) ? maxima_kernel<T, true> : maxima_kernel<T, false>,
              blocks_for(cuda, rows.n), threads_for(rows), 0, rows, logits, maximum, index);
}

template <class D, class T>
void logits_sums(const D& cuda, const LogitsRows<T>& rows, const double* student_max, const double* teacher_max,
                 double* sums) {
  if (rows.n == 0) return;
  const bool whole = are_whole(rows, rows.student, rows.teacher), tempered = rows.temperature != 1;
  const auto kernel = whole ? (tempered ? sums_kernel<T, true, true> : sums_kernel<T, true, false>)
                            : (tempered ? sums_kernel<T, false, true> : sums_kernel<T, false, false>);
  gpu::launch(cuda, kernel, blocks_for(cuda, rows.n), threads_for(rows), 0, rows, student_max, teacher_max, sums);
}

template <class D, class T>
void divergence_sums(const D& cuda, const LogitsRows<T>& rows, const LossTerms& terms, const double* student_max,
                     const double* teacher_max, const double* sums, double* divergence) {
  if (rows.n == 0) return;
  with_divergence(terms.kind, [&]<Divergence Kind>() {
    gpu::launch(cuda,
                are_whole(rows, rows.student, rows.teacher) ? divergence_sums_kernel<Kind, T, true>
                                                            : divergence_sums_kernel<Kind, T, false>,
                blocks_for(cuda, rows.n), threads_for(rows), 0, rows, static_cast<T>(terms.mix), student_max,
                teacher_max, sums, divergence);
  });
}

template <class D, class T, class G>
void logits_gradient(const D& cuda, const LogitsRows<T>& rows, const LossTerms& terms, const double* student_max,
                     const double* teacher_max, const double* sums, const double* divergence, TokenWeight weight,
                     G* dlogits, double* parts) {
  if (rows.n == 0) return;
  const bool whole = are_whole(rows, rows.student, rows.teacher, dlogits), tempered = rows.temperature != 1;
  if (rows.teacher != nullptr && !terms.needs_no_sums() && dlogits != nullptr)
    return with_divergence(terms.kind, [&]<Divergence Kind>() {
      gpu::launch(cuda,
                  whole ? divergence_gradient_kernel<Kind, T, G, true> : divergence_gradient_kernel<Kind, T, G, false>,
                  blocks_for(cuda, rows.n), threads_for(rows), 0, rows, terms, student_max, teacher_max, sums,
                  divergence, weight, dlogits, parts);
    });
  const auto kernel = whole ? (tempered ? gradient_kernel<T, G, true, true> : gradient_kernel<T, G, true, false>)
                            : (tempered ? gradient_kernel<T, G, false, true> : gradient_kernel<T, G, false, false>);
  gpu::launch(cuda, kernel, blocks_for(cuda, rows.n), threads_for(rows), 0, rows, terms, student_max, teacher_max, sums,
              weight, dlogits, parts);
}

#define LIMBECK_INSTANTIATE(T)                                                                                     \
  template void logits_maxima(const Cuda&, const LogitsRows<T>&, const T*, double*, double*);                      \
  template void logits_sums(const Cuda&, const LogitsRows<T>&, const double*, const double*, double*);             \
  template void divergence_sums(const Cuda&, const LogitsRows<T>&, const LossTerms&, const double*, const double*, \
                                const double*, double*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

#define LIMBECK_INSTANTIATE_GRADIENT(T, G)                                                                         \
  template void logits_gradient(const Cuda&, const LogitsRows<T>&, const LossTerms&, const double*, const double*, \
                                const double*, const double*, TokenWeight, G*, double*);
LIMBECK_INSTANTIATE_GRADIENT(float, float)
LIMBECK_INSTANTIATE_GRADIENT(double, double)
LIMBECK_INSTANTIATE_GRADIENT(float, bf16)

}  // namespace limbeck::kernels
