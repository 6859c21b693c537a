// How often two things come together, and how much the one says of the other: of tokens and experts, whether experts
// have their own tokens.
//
//     JointCounts counts(/*columns=*/8);
//     counts.add(token, expert);
//     const JointSums sums = counts.sum_over(rank, vocabulary);
//     sums.specialisation();          // 0: as by chance; 1: a token's expert is always the same
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "launch/run/rank.h"

namespace limbeck::launch {

/// Of a table of counts n(x,y).
struct JointSums {
  std::vector<double> rows, columns;  // n(x), n(y)
  double n_log_n = 0;                 // the sum of n(x,y) log n(x,y)

  /// I(x;y) in nats, of the shares that were counted.
  double information() const;
  /// What I(x;y) is on average where the same rows and columns meet by chance (Vinh, Epps, Bailey 2010, "Information
  /// theoretic measures for clusterings comparison", theorem 1): few counts look informative by themselves.
  double information_by_chance() const;
  /// (I - chance) / (H(y) - chance): the share of what is open about y that x tells, beyond chance. Nothing where there
  /// is one x, where chance alone tells all, and where nothing is open.
  std::optional<double> specialisation() const;
};

class JointCounts {
 public:
  explicit JointCounts(std::int64_t columns) : columns_(columns) {}
  void add(std::int64_t x, std::int64_t y) { ++counts_[x * columns_ + y]; }
  /// Collective over the ranks that have other data; x are less than `rows`.
  JointSums sum_over(Rank& rank, std::int64_t rows) const;

 private:
  std::int64_t columns_;
  std::unordered_map<std::int64_t, std::int64_t> counts_;  // by x * columns + y, those above 0
};

}  // namespace limbeck::launch
