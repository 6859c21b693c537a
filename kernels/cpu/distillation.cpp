#include "kernels/distillation.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/larger.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/exp.h"

namespace limbeck::kernels {
namespace {

// Sums are float within a block and double across blocks.
constexpr std::int64_t block = 512;

struct Sums {
  double student = 0, teacher = 0, difference = 0;
};

/// Sums of exponentials of (logit - maximum) * inverse_temperature.
template <class T>
Sums sum_row(const T* student, const T* teacher, std::int64_t n, T student_max, T teacher_max, T inverse) {
  Sums sums;
  for (std::int64_t begin = 0; begin < n; begin += block) {
    const std::int64_t end = std::min(begin + block, n);
    T s = 0, t = 0, d = 0;
    if (teacher == nullptr) {
#pragma omp simd reduction(+ : s)
      for (std::int64_t j = begin; j < end; ++j) s += exponential((student[j] - student_max) * inverse);
    } else {
#pragma omp simd reduction(+ : s, t, d)
      for (std::int64_t j = begin; j < end; ++j) {
        const T zs = (student[j] - student_max) * inverse;
        const T zt = (teacher[j] - teacher_max) * inverse;
        const T e = exponential(zt);
        s += exponential(zs);
        t += e;
        d += e * (zt - zs);
      }
    }
    sums.student += s;
    sums.teacher += t;
    sums.difference += d;
  }
  return sums;
}

}  // namespace

template <class T>
void logits_maxima(const Cpu& cpu, const LogitsRows<T>& rows, const T* logits, double* maximum, double* index) {
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

template <class T>
void logits_sums(const Cpu& cpu, const LogitsRows<T>& rows, const double* student_max, const double* teacher_max,
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
      out[TeacherSum] = plain.teacher;
      out[Difference] = plain.difference;
      out[StudentSumTempered] = tempered.student;
      out[TeacherSumTempered] = tempered.teacher;
      out[DifferenceTempered] = tempered.difference;
      const std::int64_t target = rows.targets[i] - rows.offset;
      if (target < 0 || target >= rows.num_valid) continue;
      out[StudentTarget] = static_cast<double>(student[target]) - student_max[i];
      if (teacher != nullptr) out[TeacherTarget] = static_cast<double>(teacher[target]) - teacher_max[i];
    }
  });
}

template <class T>
void logits_gradient(const Cpu& cpu, const LogitsRows<T>& rows, const double* student_max, const double* teacher_max,
                     const double* sums, double alpha, double weight, T* dlogits, double* sum_min) {
  const std::int64_t n = rows.num_valid;
  parallel_for(cpu, rows.n, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const T* student = rows.student + i * rows.columns;
      const T* teacher = rows.teacher == nullptr ? nullptr : rows.teacher + i * rows.columns;
      T* d = dlogits == nullptr ? nullptr : dlogits + i * rows.columns;
      sum_min[i] = 0;
      if (d != nullptr) std::fill(d + n, d + rows.columns, T(0));
      if (rows.targets[i] < 0) {
        if (d != nullptr) std::fill_n(d, n, T(0));
        continue;
      }
      const double* sum = sums + i * num_logits_sums;
      const T ms = static_cast<T>(student_max[i]);
      const T mt = static_cast<T>(teacher_max[i]);
      const T q_factor = static_cast<T>(1 / sum[StudentSum]);
      const T ce_factor = static_cast<T>(alpha * weight);
      if (teacher == nullptr) {
        if (d == nullptr) continue;
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) d[j] = ce_factor * (q_factor * exponential(student[j] - ms));
      } else {
        const T p_factor = static_cast<T>(1 / sum[TeacherSum]);
        const bool is_tempered = rows.temperature != 1;
        const T kl_factor = static_cast<T>((1 - alpha) * rows.temperature * weight);
        const T inverse = static_cast<T>(1 / rows.temperature);
        const T q_tempered = static_cast<T>(1 / sum[StudentSumTempered]);
        const T p_tempered = static_cast<T>(1 / sum[TeacherSumTempered]);
        for (std::int64_t first = 0; first < n; first += block) {
          const std::int64_t last = std::min(first + block, n);
          T least = 0;
          if (d == nullptr) {
#pragma omp simd reduction(+ : least)
            for (std::int64_t j = first; j < last; ++j)
              least += smaller(q_factor * exponential(student[j] - ms), p_factor * exponential(teacher[j] - mt));
          } else if (!is_tempered) {
#pragma omp simd reduction(+ : least)
            for (std::int64_t j = first; j < last; ++j) {
              const T q = q_factor * exponential(student[j] - ms);
              const T p = p_factor * exponential(teacher[j] - mt);
              least += smaller(q, p);
              d[j] = ce_factor * q + kl_factor * (q - p);
            }
          } else {
#pragma omp simd reduction(+ : least)
            for (std::int64_t j = first; j < last; ++j) {
              const T zs = student[j] - ms;
              const T zt = teacher[j] - mt;
              const T q = q_factor * exponential(zs);
              least += smaller(q, p_factor * exponential(zt));
              d[j] = ce_factor * q +
                     kl_factor * (q_tempered * exponential(zs * inverse) - p_tempered * exponential(zt * inverse));
            }
          }
          sum_min[i] += least;
        }
      }
      const std::int64_t target = rows.targets[i] - rows.offset;
      if (d != nullptr && target >= 0 && target < n) d[target] -= ce_factor;
    }
  });
}

template void logits_maxima(const Cpu&, const LogitsRows<float>&, const float*, double*, double*);
template void logits_maxima(const Cpu&, const LogitsRows<double>&, const double*, double*, double*);
template void logits_sums(const Cpu&, const LogitsRows<float>&, const double*, const double*, double*);
template void logits_sums(const Cpu&, const LogitsRows<double>&, const double*, const double*, double*);
template void logits_gradient(const Cpu&, const LogitsRows<float>&, const double*, const double*, const double*, double,
                              double, float*, double*);
template void logits_gradient(const Cpu&, const LogitsRows<double>&, const double*, const double*, const double*,
                              double, double, double*, double*);

}  // namespace limbeck::kernels
