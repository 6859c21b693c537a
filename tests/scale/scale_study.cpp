// One simulation of the scale study, as a line of JSON: what was simulated, of which numbers, and what time it took.
//
//     build/release/bin/scale_study CLUSTER STUDY ARM RANKS
//
// tests/scale/scale.py runs all of them and compares them with formulas.
#include <array>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <string>

#include <fmt/format.h>

#include "core/error.h"
#include "tests/scale/expert_exchange.h"
#include "tests/scale/gradient_reduction.h"
#include "tests/scale/pipeline_step.h"

namespace {

using namespace limbeck;
using namespace limbeck::scale;

/// Of a simulation, its numbers and times as members of a JSON object.
using Study = std::function<std::string(SimulatedCluster&, const launch::Cluster&)>;

Study exchange(Dispatch dispatch) {
  return [dispatch](SimulatedCluster& machines, const launch::Cluster&) {
    const ExchangeShape shape;
    const ExchangeTimes times = simulate_exchange(machines, dispatch, shape);
    return fmt::format(
        R"("tokens": {}, "row_bytes": {}, "experts": {}, "experts_per_token": {}, "max_nodes": {}, "in_flight": {}, "dispatch": {}, "combine": {}, "seconds": {})",
        shape.tokens, shape.row_bytes, shape.num_experts(machines.num_ranks()), shape.experts_per_token,
        shape.max_nodes, shape.in_flight, times.dispatch, times.combine, times.dispatch + times.combine);
  };
}

Study reduction(Reduction kind) {
  return [kind](SimulatedCluster& machines, const launch::Cluster&) {
    const GradientShape shape;
    const ReductionTime time = simulate_reduction(machines, kind, shape);
    return fmt::format(
        R"("buckets": {}, "bucket_bytes": {}, "bucket_flops": {}, "backward": {}, "exposed": {}, "seconds": {})",
        shape.buckets, shape.bucket_bytes, shape.backward_flops_a_bucket(), time.backward, time.step - time.backward,
        time.step);
  };
}

Study pipeline(parallel::ScheduleKind kind, int chunks) {
  return [=](SimulatedCluster& machines, const launch::Cluster& cluster) {
    const PipelineShape shape{.kind = kind, .chunks = chunks};
    const scale::PipelineTimes times = simulate_pipeline(machines, shape, cluster);
    return fmt::format(
        R"("chunks": {}, "micro_batches_a_stage": {}, "layers": {}, "layer_flops": {}, "sent_bytes": {}, "planned": {}, "seconds": {})",
        shape.chunks, shape.micro_batches_a_stage, shape.layers, shape.layer_flops(), shape.sent_bytes(), times.planned,
        times.step);
  };
}

const std::map<std::string, Study>& studies() {
  static const std::map<std::string, Study> all{
      {"experts by_expert", exchange(Dispatch::ByExpert)},
      {"experts by_rank", exchange(Dispatch::ByRank)},
      {"experts by_node", exchange(Dispatch::ByNode)},
      {"experts by_few_nodes", exchange(Dispatch::ByFewNodes)},
      {"gradients ring", reduction(Reduction::Ring)},
      {"gradients levels", reduction(Reduction::Levels)},
      {"pipeline 1f1b", pipeline(parallel::ScheduleKind::OneFOneB, 1)},
      {"pipeline interleaved", pipeline(parallel::ScheduleKind::Interleaved, 2)},
      {"pipeline zero_bubble", pipeline(parallel::ScheduleKind::ZeroBubble, 1)},
  };
  return all;
}

void run(const std::string& cluster_file, const std::string& study, const std::string& arm, int ranks) {
  const auto found = studies().find(study + " " + arm);
  if (found == studies().end()) core::fail_usage("there is no study {} {}", study, arm);
  const launch::Cluster cluster = launch::load_cluster(cluster_file);
  SimulatedCluster machines(cluster, ranks);
  const std::string result = found->second(machines, cluster);
  fmt::print(
      R"({{"study": "{}", "arm": "{}", "ranks": {}, "ranks_a_node": {}, "flops": {}, "inside": [{}, {}], "between": [{}, {}], {}}})"
      "\n",
      study, arm, ranks, machines.ranks_a_node(), cluster.flops(core::DType::BF16), cluster.inside.latency_us * 1e-6,
      cluster.inside.gb_s * 1e9, cluster.between.latency_us * 1e-6, cluster.between.gb_s * 1e9, result);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc != 5) core::fail_usage("expected CLUSTER STUDY ARM RANKS");
    run(argv[1], argv[2], argv[3], std::atoi(argv[4]));
  } catch (const std::exception& error) {
    fmt::print(stderr, "scale_study: error: {}\n", error.what());
    return 2;
  }
}
