#include "launch/run/joint_counts.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

namespace limbeck::launch {

using core::Tensor;

namespace {

double sum_n_log_n(const std::vector<double>& counts) {
  return std::accumulate(counts.begin(), counts.end(), 0.0,
                         [](double sum, double n) { return n > 0 ? sum + n * std::log(n) : sum; });
}

double sum_of(const std::vector<double>& counts) { return std::accumulate(counts.begin(), counts.end(), 0.0); }

double log_factorial(double n) { return std::lgamma(n + 1); }

/// The mean of (k / n) log(n k / (a b)) over k, how many of a draws out of n are among b marked ones (hypergeometric).
double mean_part(double a, double b, double n) {
  const double least = std::max(0.0, a + b - n), most = std::min(a, b);
  const double mode = std::clamp(std::floor((a + 1) * (b + 1) / (n + 2)), least, most);
  const double at_mode = std::exp(log_factorial(a) + log_factorial(b) + log_factorial(n - a) + log_factorial(n - b) -
                                  log_factorial(n) - log_factorial(mode) - log_factorial(a - mode) -
                                  log_factorial(b - mode) - log_factorial(n - a - b + mode));
  const double too_little = 1e-20 * at_mode;  // both sides fall from the mode on
  const auto part = [&](double k, double p) { return k > 0 ? p * k / n * std::log(n * k / (a * b)) : 0.0; };
  double sum = part(mode, at_mode);
  for (double k = mode, p = at_mode; k < most && p > too_little;) {
    p *= (a - k) * (b - k) / ((k + 1) * (n - a - b + k + 1));
    sum += part(++k, p);
  }
  for (double k = mode, p = at_mode; k > least && p > too_little;) {
    p *= k * (n - a - b + k) / ((a - k + 1) * (b - k + 1));
    sum += part(--k, p);
  }
  return sum;
}

/// How many counts there are of each size.
std::map<double, double> by_size(const std::vector<double>& counts) {
  std::map<double, double> sizes;
  for (const double n : counts)
    if (n > 0) sizes[n] += 1;
  return sizes;
}

}  // namespace

double JointSums::information() const {
  const double n = sum_of(columns);
  if (n == 0) return 0;
  return std::max(0.0, (n_log_n - sum_n_log_n(rows) - sum_n_log_n(columns)) / n + std::log(n));
}

double JointSums::information_by_chance() const {
  const double n = sum_of(columns);
  double sum = 0;
  for (const auto& [a, rows_alike] : by_size(rows))
    for (const auto& [b, columns_alike] : by_size(columns)) sum += rows_alike * columns_alike * mean_part(a, b, n);
  return sum;
}

std::optional<double> JointSums::specialisation() const {
  constexpr double rounding = 1e-9;
  const double n = sum_of(columns);
  if (n == 0 || std::count_if(rows.begin(), rows.end(), [](double x) { return x > 0; }) < 2) return std::nullopt;
  const double open = std::log(n) - sum_n_log_n(columns) / n;
  const double chance = information_by_chance();
  if (open - chance <= rounding) return std::nullopt;
  return (information() - chance) / (open - chance);
}

JointSums JointCounts::sum_over(Rank& rank, std::int64_t rows) const {
  constexpr std::int64_t most_at_once = std::int64_t{1} << 20U;  // counts that lie side by side for the exchange
  std::vector<std::pair<std::int64_t, std::int64_t>> counts(counts_.begin(), counts_.end());
  std::sort(counts.begin(), counts.end());
  JointSums sums{.rows = std::vector<double>(static_cast<std::size_t>(rows)),
                 .columns = std::vector<double>(static_cast<std::size_t>(columns_))};
  const std::int64_t rows_at_once = std::max<std::int64_t>(1, most_at_once / columns_);
  auto next = counts.begin();
  for (std::int64_t first = 0; first < rows; first += rows_at_once) {
    const std::int64_t count = std::min(rows_at_once, rows - first);
    Tensor part = Tensor::zeros(rank.host_memory(), core::DType::F64, {count, columns_});
    for (auto* values = part.mutable_host<double>(); next != counts.end() && next->first < (first + count) * columns_;
         ++next)
      values[next->first - first * columns_] = static_cast<double>(next->second);
    rank.comms().batch->sum(part);
    const std::vector<double> values = core::host_values<double>(part);
    sums.n_log_n += sum_n_log_n(values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      sums.rows[static_cast<std::size_t>(first) + i / static_cast<std::size_t>(columns_)] += values[i];
      sums.columns[i % static_cast<std::size_t>(columns_)] += values[i];
    }
  }
  return sums;
}

}  // namespace limbeck::launch
