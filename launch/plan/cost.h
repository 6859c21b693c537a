// What work took: joules, by the machine's counters or else by a power that was declared, and the money that these and
// the time cost.
//
//     const Cost cost = cost_of(decode_meter.figures(generated, 1), cluster);
//     a_token_text(cost, 63);      // "0.61 J a token (RAPL), 0.0508 EUR a million tokens"
#pragma once

#include <optional>
#include <string>

#include "launch/plan/cluster.h"
#include "launch/run/run_facts.h"

namespace limbeck::launch {

/// What is not known is left out.
struct Cost {
  std::optional<double> joules = {};
  std::string by = {};  // by which counters, or "declared: 35 W of laptop"
  std::optional<double> amount = {};
  std::string currency = {};
};

/// By the cluster's power where no joules were measured, and by its prices.
Cost cost_of(const WorkFigures& taken, const std::optional<Cluster>& cluster);

/// Of so many tokens; empty where nothing is known.
std::string a_token_text(const Cost& cost, double tokens);

}  // namespace limbeck::launch
