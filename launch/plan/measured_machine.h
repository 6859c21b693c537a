// This machine as it was measured (`limbeck plan --calibrate`): a cluster file in the user's cache, one for each number
// of ranks that the machine was measured with.
//
//     save_cluster(machine_file(2), measure_machine(world, config, log).cluster, comment);
//     if (const auto known = measured_machine(config, 2, 4)) step_time(config, models, plan, world, *known);
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/plan/cluster.h"
#include "parallel/comm/world.h"

namespace limbeck::launch {

/// $XDG_CACHE_HOME/limbeck/HOST_N.textproto, or ~/.cache/limbeck's, N being the ranks on the machine. Empty where the
/// environment names neither.
std::filesystem::path machine_file(int ranks_a_machine);

/// Threads that a rank of the config computes with, as many ranks being on this machine.
int threads_of(const RunConfig& config, int ranks_a_machine);

/// What `file` says of a rank, for so many on each machine, where it is there and of ranks of as many threads on the
/// same kind of device as the config's; else nothing, and `log` hears why. The bus to a GPU's host, which is not
/// measured, is usual_cluster's (automatic_layout.h) unless the file has one. Throws as load_cluster does.
std::optional<Cluster> measured_machine(const RunConfig& config, int ranks_a_machine, int num_ranks, const Log& log);

/// A step of small models that were run to measure the machine, seconds. What is planned of it is `fixed`, and `a_gb_s`
/// over the rate of kernels that are no products, GB/s.
struct MeasuredStep {
  std::string name;
  double measured = 0;
  double fixed = 0, a_gb_s = 0;
  double planned(double kernel_gb_s) const { return fixed + a_gb_s / kernel_gb_s; }
};
/// The rate, GB/s, by which all steps are planned nearest to what they took: the least squares of their relative
/// errors.
double fitted_kernel_rate(std::span<const MeasuredStep> steps);

struct MachineMeasured {
  Cluster cluster;
  std::vector<MeasuredStep> steps;
};
/// Collective: what a rank of `config` (its device and threads) reaches while all ranks of the world do the same, the
/// mean over them. Products, memory and exchanges are measured one by one (machine_rates.h); what other kernels reach
/// is what is left of whole steps of some small models. It takes about a minute.
MachineMeasured measure_machine(const std::shared_ptr<parallel::WorldComm>& world, const RunConfig& config,
                                const Log& log);

}  // namespace limbeck::launch
