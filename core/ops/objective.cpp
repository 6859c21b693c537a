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
  token_kl.insert(token_kl.end(), other.token_kl.begin(), other.token_kl.end());
}

}  // namespace limbeck::core
