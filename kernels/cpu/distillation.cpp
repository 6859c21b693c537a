#include "kernels/distillation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "kernels/cpu/in_place.h"
#include "kernels/cpu/larger.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/exp.h"
#include "kernels/loss_row.h"

namespace limbeck::kernels {
namespace {

// Sums are float within a block and double across blocks.
constexpr std::int64_t block = 512;

struct Sums {
  double student = 0, shared = 0, teacher = 0, difference = 0;
};

/// Sums of exponentials of (logit - maximum) * inverse_temperature.
template <class T>
Sums sum_row(const T* student, const T* teacher, std::int64_t n, T student_max, T teacher_max, T inverse) {
  Sums sums;
  for (std::int64_t begin = 0; begin < n; begin += block) {
    const std::int64_t end = std::min(begin + block, n);
    T s = 0, both = 0, t = 0, d = 0;
    if (teacher == nullptr) {
#pragma omp simd reduction(+ : s)
      for (std::int64_t j = begin; j < end; ++j) s += exponential((student[j] - student_max) * inverse);
      both = s;
    } else {
#pragma omp simd reduction(+ : s, both, t, d)
      for (std::int64_t j = begin; j < end; ++j) {
        const T zs = (student[j] - student_max) * inverse;
        const T zt = (teacher[j] - teacher_max) * inverse;
        const T e = exponential(zt);
        const T of_student = exponential(zs);
        s += of_student;
        both += is_lacking(teacher[j]) ? 0 : of_student;
        t += e;
        d += e * (zt - zs);
      }
    }
    sums.student += s;
    sums.shared += both;
    sums.teacher += t;
    sums.difference += d;
  }
  return sums;
}

/// What the gradient of a row takes besides its logits: z less the maxima, and factors of their exponentials.
template <class T>
struct GradientRow {
  const T* student;
  const T* teacher;  // or null
  T student_max, teacher_max;
  T inverse;  // of the temperature
  T q, p;     // 1 / the sums of exponentials
  T q_shared, q_tempered, p_tempered;
  T ce, kl;  // weights of the two parts
};

template <class T>
GradientRow<T> gradient_row(const LogitsRows<T>& rows, std::int64_t i, double student_max, double teacher_max,
                            const double* sum, const LossTerms& terms, double weight) {
  return {.student = rows.student + i * rows.columns,
          .teacher = rows.teacher == nullptr ? nullptr : rows.teacher + i * rows.columns,
          .student_max = static_cast<T>(student_max),
          .teacher_max = static_cast<T>(teacher_max),
          .inverse = terms.divergence == 0 ? T(1) : static_cast<T>(1 / rows.temperature),
          .q = static_cast<T>(1 / sum[StudentSum]),
          .p = static_cast<T>(1 / sum[TeacherSum]),
          .q_shared = static_cast<T>(1 / sum[StudentSumShared]),
          .q_tempered = static_cast<T>(1 / sum[StudentSumTempered]),
          .p_tempered = static_cast<T>(1 / sum[TeacherSumTempered]),
          .ce = static_cast<T>(terms.ce * weight),
          .kl = static_cast<T>(terms.divergence * rows.temperature * weight)};
}

/// Tempered distributions of a row, by logits.
template <class T>
struct TemperedRow {
  const T* student;
  const T* teacher;
  T student_max, teacher_max;
  T inverse;             // of the temperature
  T log_sum_apart;       // log of the student's sum of exponentials less log of the teacher's
  T q_factor, p_factor;  // 1 / the sums

  TemperedRow(const LogitsRows<T>& rows, std::int64_t i, double smax, double tmax, const double* sum)
      : student(rows.student + i * rows.columns),
        teacher(rows.teacher + i * rows.columns),
        student_max(static_cast<T>(smax)),
        teacher_max(static_cast<T>(tmax)),
        inverse(static_cast<T>(1 / rows.temperature)),
        log_sum_apart(static_cast<T>(std::log(sum[StudentSumTempered]) - std::log(sum[TeacherSumTempered]))),
        q_factor(static_cast<T>(1 / sum[StudentSumTempered])),
        p_factor(static_cast<T>(1 / sum[TeacherSumTempered])) {}

  template <Divergence Kind>
  DivergenceTerm<T> term(std::int64_t j, T mix, T& q) const {
    // The difference of equal logits is 0, however products and sums are fused.
    const T zs = student[j] - student_max, zt = teacher[j] - teacher_max;
    q = is_lacking(teacher[j]) ? 0 : q_factor * exponential(zs * inverse);
    return divergence_term<Kind>(p_factor * exponential(zt * inverse), q, (zs - zt) * inverse - log_sum_apart, mix);
  }
};

/// Value and sum of pulls of a row.
template <Divergence Kind, class T>
std::pair<double, double> divergence_row(const TemperedRow<T>& tempered, std::int64_t n, T mix) {
  const TemperedRow<T> row = tempered;
  double value = 0, pull = 0;
  for (std::int64_t begin = 0; begin < n; begin += block) {
    const std::int64_t end = std::min(begin + block, n);
    T v = 0, g = 0;
#pragma omp simd reduction(+ : v, g)
    for (std::int64_t j = begin; j < end; ++j) {
      T q;
      const DivergenceTerm<T> term = row.template term<Kind>(j, mix, q);
      v += term.value;
      g += term.pull;
    }
    value += v;
    pull += g;
  }
  return {value, pull};
}

/// d [n] += weight (pull - q of all pulls) of the columns from `first` on. Returns the sum of squares of what is added.
template <Divergence Kind, class T>
T add_divergence_gradient(const TemperedRow<T>& tempered, std::int64_t first, std::int64_t n, T mix, T all_pulls,
                          T weight, T* d) {
  const TemperedRow<T> row = tempered;
  T squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t j = 0; j < n; ++j) {
    T q;
    const T pull = row.template term<Kind>(first + j, mix, q).pull;
    const T added = weight * (pull - q * all_pulls);
    squares += added * added;
    d[j] += added;
  }
  return squares;
}

/// Of some columns, what GradientSum names.
template <class T>
struct GradientParts {
  T least = 0, ce = 0, divergence = 0;
};

/// d [n], or null: the gradient of the next n columns, but for the target's.
template <class T>
GradientParts<T> gradient_block(const GradientRow<T>& row, std::int64_t first, std::int64_t n, T* d) {
  const GradientRow<T> r = row;  // that no store to d could change
  const T* student = r.student + first;
  T least = 0, of_ce = 0, of_divergence = 0;
  if (r.teacher == nullptr) {
#pragma omp simd
    for (std::int64_t j = 0; j < n; ++j) d[j] = r.ce * (r.q * exponential(student[j] - r.student_max));
    return {};
  }
  const T* teacher = r.teacher + first;
  if (d == nullptr) {
#pragma omp simd reduction(+ : least)
    for (std::int64_t j = 0; j < n; ++j)
      least +=
          smaller(r.q_shared * exponential(student[j] - r.student_max), r.p * exponential(teacher[j] - r.teacher_max));
  } else if (r.inverse == 1) {
#pragma omp simd reduction(+ : least, of_ce, of_divergence)
    for (std::int64_t j = 0; j < n; ++j) {
      const T e = exponential(student[j] - r.student_max);
      const T q = is_lacking(teacher[j]) ? 0 : r.q_shared * e;
      const T p = r.p * exponential(teacher[j] - r.teacher_max);
      least += smaller(q, p);
      const T ce = r.ce * (r.q * e), kl = r.kl * (q - p);
      of_ce += ce * ce;
      of_divergence += kl * kl;
      d[j] = ce + kl;
    }
  } else {
#pragma omp simd reduction(+ : least, of_ce, of_divergence)
    for (std::int64_t j = 0; j < n; ++j) {
      const T zs = student[j] - r.student_max;
      const T zt = teacher[j] - r.teacher_max;
      const T e = exponential(zs);
      const T tempered = is_lacking(teacher[j]) ? 0 : r.q_tempered * exponential(zs * r.inverse);
      least += smaller(r.q_shared * e, r.p * exponential(zt));
      const T ce = r.ce * (r.q * e), kl = r.kl * (tempered - r.p_tempered * exponential(zt * r.inverse));
      of_ce += ce * ce;
      of_divergence += kl * kl;
      d[j] = ce + kl;
    }
  }
  return {least, of_ce, of_divergence};
}

}  // namespace

template <class D, class T>
void logits_maxima(const D& cpu, const LogitsRows<T>& rows, const T* logits, double* maximum, double* index) {
  parallel_for(cpu, rows.n, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const T* row = logits + i * rows.columns;
      T largest = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : largest)
      for (std::int64_t j = 0; j < rows.num_valid; ++j) largest = larger(largest, row[j]);
      const T* at = std::find(row, row + rows.num_valid, largest);
      maximum[i] = largest;
      index[i] = static_cast<double>(rows.offset + (at - row));
    }
  });
}

template <class D, class T>
void logits_sums(const D& cpu, const LogitsRows<T>& rows, const double* student_max, const double* teacher_max,
                 double* sums) {
  parallel_for(cpu, rows.n, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      double* out = sums + i * num_logits_sums;
      std::fill_n(out, num_logits_sums, 0.0);
      if (rows.targets[i] < 0) continue;
      const T* student = rows.student + i * rows.columns;
      const T* teacher = rows.teacher == nullptr ? nullptr : rows.teacher + i * rows.columns;
      const auto run = [&](double temperature) {
        return sum_row(student, teacher, rows.num_valid, static_cast<T>(student_max[i]), static_cast<T>(teacher_max[i]),
                       static_cast<T>(1 / temperature));
      };
      const Sums plain = run(1);
      const Sums tempered = rows.temperature == 1 ? plain : run(rows.temperature);
      out[StudentSum] = plain.student;
      out[StudentSumShared] = plain.shared;
      out[TeacherSum] = plain.teacher;
      out[Difference] = plain.difference;
      out[StudentSumTempered] = tempered.shared;
      out[TeacherSumTempered] = tempered.teacher;
      out[DifferenceTempered] = tempered.difference;
      const std::int64_t target = rows.targets[i] - rows.offset;
      if (target < 0 || target >= rows.num_valid) continue;
      out[StudentTarget] = static_cast<double>(student[target]) - student_max[i];
      if (teacher != nullptr) out[TeacherTarget] = static_cast<double>(teacher[target]) - teacher_max[i];
    }
  });
}

template <class D, class T>
void divergence_sums(const D& cpu, const LogitsRows<T>& rows, const LossTerms& terms, const double* student_max,
                     const double* teacher_max, const double* sums, double* divergence) {
  parallel_for(cpu, rows.n, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      double* out = divergence + i * num_divergence_sums;
      std::fill_n(out, num_divergence_sums, 0.0);
      if (rows.targets[i] < 0) continue;
      const TemperedRow<T> row(rows, i, student_max[i], teacher_max[i], sums + i * num_logits_sums);
      std::tie(out[DivergenceValue], out[DivergencePull]) = with_divergence(terms.kind, [&]<Divergence Kind>() {
        return divergence_row<Kind>(row, rows.num_valid, static_cast<T>(terms.mix));
      });
    }
  });
}

template <class D, class T, class G>
void logits_gradient(const D& cpu, const LogitsRows<T>& rows, const LossTerms& terms, const double* student_max,
                     const double* teacher_max, const double* sums, const double* divergence, TokenWeight token_weight,
                     G* dlogits, double* parts) {
  const bool is_apart = rows.teacher != nullptr && !terms.needs_no_sums();  // the divergence's part is added
  const LossTerms plain{.ce = terms.ce, .divergence = is_apart ? 0 : terms.divergence};
  const std::int64_t n = rows.num_valid;
  parallel_for(cpu, rows.n, 1, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) T values[block];
    for (std::int64_t i = begin; i < end; ++i) {
      G* d = dlogits == nullptr ? nullptr : dlogits + i * rows.columns;
      double* part = parts + i * num_gradient_sums;
      std::fill_n(part, num_gradient_sums, 0.0);
      if (d != nullptr) std::fill(d + n, d + rows.columns, G{});
      if (rows.targets[i] < 0) {
        if (d != nullptr) std::fill_n(d, n, G{});
        continue;
      }
      if (d == nullptr && rows.teacher == nullptr) continue;
      const double weight = token_weight.get(i);
      const double* sum = sums + i * num_logits_sums;
      const auto row = gradient_row(rows, i, student_max[i], teacher_max[i], sum, plain, weight);
      const std::int64_t target = rows.targets[i] - rows.offset;
      for (std::int64_t first = 0; first < n; first += block) {
        const std::int64_t count = std::min(block, n - first);
        // The logits may lie where the gradient goes, and are read twice where the divergence's part is added.
        T* to = d == nullptr ? nullptr : is_apart ? values : in_place_or(values, d + first);
        const GradientParts<T> of_block = gradient_block(row, first, count, to);
        part[SumMin] += of_block.least;
        part[CeSquare] += of_block.ce;
        part[DivergenceSquare] += of_block.divergence;
        if (d == nullptr) continue;
        if (is_apart)
          part[DivergenceSquare] += with_divergence(terms.kind, [&]<Divergence Kind>() {
            return add_divergence_gradient<Kind>(TemperedRow<T>(rows, i, student_max[i], teacher_max[i], sum), first,
                                                 count, static_cast<T>(terms.mix),
                                                 static_cast<T>(divergence[i * num_divergence_sums + DivergencePull]),
                                                 static_cast<T>(terms.divergence * rows.temperature * weight), to);
          });
        if (target >= first && target < first + count) {
          to[target - first] -= row.ce;
          if (rows.teacher != nullptr) part[CeSquare] += target_square(terms.ce * weight, sum);
        }
        if (to != values) continue;
#pragma omp simd
        for (std::int64_t j = 0; j < count; ++j) {
          if constexpr (std::is_same_v<G, T>)
            d[first + j] = values[j];
          else
            d[first + j] = as<G>(values[j]);
        }
      }
    }
  });
}

template <class D>
void negate_where_maximal(const D&, const double* own, const double* of_all, double* indices, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i)
    indices[i] = own[i] == of_all[i] ? -indices[i] : -std::numeric_limits<double>::infinity();
}

template <class D, class T>
void add_losses(const D&, const LogitsRows<T>& rows, const LossTerms& terms, const double* indices, const double* sums,
                const double* divergence, const double* parts, TokenWeight token_weight, double* totals, double* each) {
  const bool has_teacher = rows.teacher != nullptr;
  for (std::int64_t i = 0; i < rows.n; ++i) {
    const LossRow row = loss_row(
        sums + i * num_logits_sums, divergence == nullptr ? nullptr : divergence + i * num_divergence_sums, has_teacher,
        terms, rows.temperature, indices[i] == indices[rows.n + i], parts + i * num_gradient_sums);
    const bool counts = rows.targets[i] >= 0;
    if (counts) {
      for (std::int64_t c = 0; c < num_loss_columns; ++c) totals[c] += row.columns[c];
      totals[LossObjective] += token_weight.get(i) * row.objective;
      totals[LossCeSquare] += row.ce_square;
      totals[LossDivergenceSquare] += row.divergence_square;
    }
    if (each != nullptr)
      for (std::int64_t c = 0; c < num_loss_columns; ++c) each[i * num_loss_columns + c] = counts ? row.columns[c] : 0;
  }
}

#define LIMBECK_INSTANTIATE(T)                                                                                    \
  template void logits_maxima(const Cpu&, const LogitsRows<T>&, const T*, double*, double*);                      \
  template void logits_sums(const Cpu&, const LogitsRows<T>&, const double*, const double*, double*);             \
  template void divergence_sums(const Cpu&, const LogitsRows<T>&, const LossTerms&, const double*, const double*, \
                                const double*, double*);                                                          \
  template void add_losses(const Cpu&, const LogitsRows<T>&, const LossTerms&, const double*, const double*,      \
                           const double*, const double*, TokenWeight, double*, double*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

#define LIMBECK_INSTANTIATE_GRADIENT(T, G)                                                                        \
  template void logits_gradient(const Cpu&, const LogitsRows<T>&, const LossTerms&, const double*, const double*, \
                                const double*, const double*, TokenWeight, G*, double*);
LIMBECK_INSTANTIATE_GRADIENT(float, float)
LIMBECK_INSTANTIATE_GRADIENT(double, double)
LIMBECK_INSTANTIATE_GRADIENT(float, bf16)

template void negate_where_maximal(const Cpu&, const double*, const double*, double*, std::int64_t);

}  // namespace limbeck::kernels
