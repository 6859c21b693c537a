// Rows of tokens on their way to the ranks of their experts, and back.
//
//     const ExchangeTimes times = simulate_exchange(machines, Dispatch::ByNode, {});
#pragma once

#include "tests/scale/simulated_cluster.h"

namespace limbeck::scale {

/// How often a token travels.
enum class Dispatch {
  ByExpert,    // to each of its experts
  ByRank,      // once to each rank that has one of them: parallel.expert_exchange FLAT
  ByNode,      // TWO_LEVEL: once to each node, to the rank of the sender's place there, which hands on to the node's others:
               // DeepSeek-AI 2024, DeepSeek-V3, arXiv 2412.19437, section 3.2.2
  ByFewNodes,  // the same, where the experts of a token are on max_nodes nodes at most
};

struct ExchangeShape {
  int tokens = 4096;         // of a rank
  int row_bytes = 2 * 7168;  // of bfloat16
  int experts_per_token = 8;
  int least_experts = 256;  // with more ranks an expert each
  int max_nodes = 4;        // of ByFewNodes
  int in_flight = 8;        // messages that a rank has on their way at once
  /// Tokens whose experts are drawn at random, all alike; each rank's tokens go where these go in the mean.
  int drawn_tokens = 20000;
  unsigned seed = 1;

  int num_experts(int num_ranks) const { return least_experts > num_ranks ? least_experts : num_ranks; }
};

/// Seconds until the last rank has all of its rows.
struct ExchangeTimes {
  double dispatch = 0;
  double combine = 0;  // the same messages the other way, in the other order
};

ExchangeTimes simulate_exchange(SimulatedCluster& machines, Dispatch dispatch, const ExchangeShape& shape);

}  // namespace limbeck::scale
