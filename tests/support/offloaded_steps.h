// Steps whose optimizer state and teacher lie in the host's memory, or not, and what they leave behind.
//
//     const Left left = left_by({.uses_muon = true}, /*offload=*/true, [] { return gpu_memory(0); });
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/support/golden_steps.h"
#include "tests/support/kept_state.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::testing {

/// Of a rank.
struct Left {
  std::vector<double> losses;
  core::StateDict state;  // what it would write, copied to the host
  std::int64_t on_device = 0, teacher_on_host = 0, optimizer_on_host = 0;  // bytes, between steps
};

inline std::map<std::string, std::vector<std::byte>> bits_of(const Left& left) {
  std::map<std::string, std::vector<std::byte>> bits;
  for (const auto& [name, entry] : left.state)
    bits[name] = {entry.tensor.host_raw(), entry.tensor.host_raw() + entry.tensor.bytes()};
  return bits;
}

/// Two steps of each rank, behind those that left `before`, of one rank.
inline std::vector<Left> all_left_by(StepSettings settings, bool offload,
                                     const std::function<core::MemoryPtr(int rank)>& memory,
                                     const Left* before = nullptr) {
  constexpr int steps = 2;
  settings.offload_state = settings.offload_teacher = offload;
  std::vector<Left> all(static_cast<std::size_t>(settings.ranks));
  run_ranks(settings.ranks, [&](RankWorld& world) {
    Left& left = all[static_cast<std::size_t>(world.rank)];
    GoldenSteps golden(world.comm, settings, memory(world.rank));
    if (before != nullptr) {
      golden.load(KeptState(before->state));
      golden.optimizer().set_num_steps(steps);
    }
    for (int step = 0; step < steps; ++step) left.losses.push_back(golden.run().result.loss());
    left.on_device = golden.rank().memory()->statistics().used_bytes;
    left.teacher_on_host = golden.teacher().offloaded_bytes();
    left.optimizer_on_host = golden.optimizer().offloaded_bytes();
    for (const auto& [name, entry] : golden.state())
      left.state[name] = {entry.global_shape, entry.offset, entry.value().clone()};
  });
  return all;
}

inline Left left_by(const StepSettings& settings, bool offload, const std::function<core::MemoryPtr(int rank)>& memory,
                    const Left* before = nullptr) {
  return all_left_by(settings, offload, memory, before).front();
}

}  // namespace limbeck::testing
