#include "core/ops/objective.h"

namespace limbeck::core {

void LossSums::add(const LossSums& other) {
  tokens += other.tokens;
  ce += other.ce;
  teacher_ce += other.teacher_ce;
  kl += other.kl;
  agreement += other.agreement;
  sum_min += other.sum_min;
}

void LossStatistics::add(const LossStatistics& other) {
  LossSums::add(other);
  loss += other.loss;
  each.insert(each.end(), other.each.begin(), other.each.end());
}

}  // namespace limbeck::core
