#include "launch/plan/cost.h"

#include <fmt/format.h>

namespace limbeck::launch {

Cost cost_of(const WorkFigures& taken, const std::optional<Cluster>& cluster) {
  Cost cost{.joules = taken.joules, .by = taken.by};
  if (!cluster) return cost;
  if (const double joules = cluster->joules_of(taken.ranks, taken.seconds); !cost.joules && joules > 0) {
    cost.joules = joules;
    cost.by = fmt::format("declared: {:.3g} W of {}", cluster->watts_of(taken.ranks), cluster->name);
  }
  if (const double price = cluster->price_of(taken.ranks, taken.seconds, cost.joules.value_or(0) / joules_a_kwh);
      price > 0) {
    cost.amount = price;
    cost.currency = cluster->currency;
  }
  return cost;
}

std::string a_token_text(const Cost& cost, double tokens) {
  std::string text;
  if (cost.joules) text = fmt::format("{:.3g} J a token ({})", *cost.joules / tokens, cost.by);
  if (cost.amount)
    text += fmt::format("{}{:.3g} {} a million tokens", text.empty() ? "" : ", ", *cost.amount / tokens * 1e6,
                        cost.currency);
  return text;
}

}  // namespace limbeck::launch
