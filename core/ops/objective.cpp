#include "core/ops/objective.h"

namespace limbeck::core {

void LossStatistics::add(const LossStatistics& other) {
  tokens += other.tokens;
  loss += other.loss;
  ce += other.ce;
  teacher_ce += other.teacher_ce;
  kl += other.kl;
  agreement += other.agreement;
  sum_min += other.sum_min;
  each.insert(each.end(), other.each.begin(), other.each.end());
}

}  // namespace limbeck::core
