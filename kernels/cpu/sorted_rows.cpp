#include "kernels/sorted_rows.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/cpu/parallel_for.h"
#include "kernels/exp.h"
#include "kernels/sorted_row.h"

namespace limbeck::kernels {
namespace {

/// The logits of a row, sorted, and their probabilities.
template <class T>
class SortedSide {
 public:
  void sort(const T* logits, std::int64_t n) {
    records_.resize(static_cast<std::size_t>(n));
    others_.resize(records_.size());
    e_.resize(records_.size());
    for (std::int64_t c = 0; c < n; ++c)
      records_[static_cast<std::size_t>(c)] = {sort_key(logits[c]), static_cast<std::int32_t>(c)};
    for (unsigned shift = 0; shift < 8 * sizeof(T); shift += digit_bits) sort_by_digit(shift);
    if (n == 0) return;
    const T greatest = value_of<T>(records_.front().key);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) e_[i] = exponential(value_of<T>(records_[i].key) - greatest);
    double sum = 0;
    for (const T e : e_) sum += static_cast<double>(e);
    inverse_ = 1 / sum;
  }
  std::int64_t size() const { return static_cast<std::int64_t>(records_.size()); }
  /// 0 behind the last.
  double probability(std::int64_t i) const {
    return i < size() ? static_cast<double>(e_[static_cast<std::size_t>(i)]) * inverse_ : 0;
  }
  std::int64_t column(std::int64_t i) const { return records_[static_cast<std::size_t>(i)].column; }

 private:
  static constexpr unsigned digit_bits = 11;

  void sort_by_digit(unsigned shift) {
    constexpr std::size_t digits = std::size_t{1} << digit_bits;
    const auto digit = [=](const SortRecord<T>& record) {
      return static_cast<std::size_t>(record.key >> shift) % digits;
    };
    std::array<std::size_t, digits> next{};
    for (const SortRecord<T>& record : records_) ++next[digit(record)];
    std::size_t before = 0;
    for (std::size_t& of_digit : next) before += std::exchange(of_digit, before);
    for (const SortRecord<T>& record : records_) others_[next[digit(record)]++] = record;
    records_.swap(others_);
  }

  std::vector<SortRecord<T>> records_, others_;
  std::vector<T> e_;
  double inverse_ = 0;
};

/// Of cross-entropy alone.
template <class T, class G>
void unpaired_row(const SortedRows<T>& rows, std::int64_t i, double weight, double student_max, double sum, G* d) {
  const LogitsRows<T>& part = rows.part;
  const T* x = part.student + i * part.columns;
  const T greatest = static_cast<T>(student_max), factor = static_cast<T>(weight / sum),
          of_target = static_cast<T>(weight);
  const std::int64_t target = part.targets[i] - part.offset;
  for (std::int64_t c = 0; c < part.num_valid; ++c) {
    T value = factor * exponential(x[c] - greatest);
    if (c == target) value -= of_target;
    d[c] = as<G>(value);
  }
}

/// of_row and, where it is wanted, the gradient.
template <class T, class G>
void paired_row(const SortedRows<T>& rows, std::int64_t i, const SortedSide<T>& own, const SortedSide<T>& theirs,
                double ce, double weight, G* d, double* of_row) {
  double distance = 0, pull = 0;
  for (std::int64_t k = 0; k < std::max(own.size(), theirs.size()); ++k) {
    const double q = own.probability(k), p = theirs.probability(k), slope = slope_of_distance(q, p);
    distance += slope * (q - p);
    pull += q * slope;
  }
  of_row[SortedPairs] = 1;
  of_row[SortedDistance] = distance;
  if (d == nullptr) return;
  const LogitsRows<T>& part = rows.part;
  for (std::int64_t k = 0; k < own.size(); ++k) {
    const std::int64_t c = own.column(k) - part.offset;
    if (c < 0 || c >= part.num_valid) continue;
    const double q = own.probability(k), slope = slope_of_distance(q, theirs.probability(k));
    double value = ce * q + (1 - ce) * q * (slope - pull);
    if (c == part.targets[i] - part.offset) value -= ce;
    d[c] = as<G>(static_cast<T>(weight * value));
  }
}

}  // namespace

template <class D, class T>
std::int64_t sorting_room(const D&, const SortedRows<T>&) {
  return 0;  // a thread has its own
}

template <class D, class T, class G>
void sorted_gradient(const D& cpu, const SortedRows<T>& rows, double ce, const double* student_max, const double* sums,
                     TokenWeight weight, G* dlogits, double* of_rows, std::byte*) {
  const LogitsRows<T>& part = rows.part;
  parallel_for(cpu, part.n, 1, [&](std::int64_t begin, std::int64_t end) {
    SortedSide<T> own, theirs;
    for (std::int64_t i = begin; i < end; ++i) {
      G* d = dlogits != nullptr ? dlogits + i * part.columns : nullptr;
      double* of_row = of_rows + i * num_sorted_columns;
      std::fill_n(of_row, num_sorted_columns, 0.0);
      const bool is_skipped = part.targets[i] < 0;
      if (!is_skipped && rows.pair_of[i] >= 0) {
        own.sort(rows.student.logits + i * rows.student.columns, rows.student.num_valid);
        theirs.sort(rows.teacher.logits + (rows.pair_of[i] - rows.first_pair) * rows.teacher.columns,
                    rows.teacher.num_valid);
        paired_row(rows, i, own, theirs, ce, weight.get(i), d, of_row);
      } else if (!is_skipped && d != nullptr)
        unpaired_row(rows, i, ce * weight.get(i), student_max[i], sums[i * num_logits_sums + StudentSum], d);
      if (d != nullptr) std::fill(d + (is_skipped ? 0 : part.num_valid), d + part.columns, G{});
    }
  });
}

#define LIMBECK_INSTANTIATE(T) template std::int64_t sorting_room(const Cpu&, const SortedRows<T>&);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

#define LIMBECK_INSTANTIATE_GRADIENT(T, G)                                                                           \
  template void sorted_gradient(const Cpu&, const SortedRows<T>&, double, const double*, const double*, TokenWeight, \
                                G*, double*, std::byte*);
LIMBECK_INSTANTIATE_GRADIENT(float, float)
LIMBECK_INSTANTIATE_GRADIENT(double, double)
LIMBECK_INSTANTIATE_GRADIENT(float, bf16)

}  // namespace limbeck::kernels
