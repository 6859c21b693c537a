// What steps take of their ranks' machines, beside time: memory by part, and energy where the machines say it.
//
//     StepFootprint footprint(rank);
//     footprint.begin_step();
//     ... a step ...
//     footprint.end_step(steps.memory(), copied_bytes);
//     stop_is_agreed(rank, {footprint.numbers()});        // the greatest of any rank
//     footprint.add_to(line);                             // "memory_bytes", "joules"
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launch/run/energy_meter.h"
#include "launch/run/memory_parts.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// Whether all ranks are on the first one's machine.
bool is_on_one_machine(const Rank& rank);

class StepFootprint {
 public:
  /// The first rank of each machine reads its counters.
  explicit StepFootprint(const Rank& rank);

  /// What is between the steps counts to none.
  void begin_step();
  /// `parts`: what is known of the memory by who has it (RunSteps::memory); of the rest `copied_bytes` are the copy
  /// that is saved. Nothing of the memory is told where there are no parts.
  void end_step(const std::optional<MemoryParts>& parts, std::int64_t copied_bytes);
  /// Of this rank, to be made the greatest of any rank's: bytes of each part, microjoules of each machine.
  std::span<std::int64_t> numbers() { return numbers_; }
  /// "memory_bytes", by part, and "joules" of all machines, where all could be read.
  void add_to(nlohmann::ordered_json& line) const;
  /// By what this machine's joules are known (EnergyMeter::by); empty where they are not.
  std::string energy_by() const { return meter_ ? meter_->by() : ""; }

 private:
  const Rank& rank_;
  std::optional<EnergyMeter> meter_;
  std::size_t machine_ = 0;            // this rank's, of all in the order of their first ranks
  std::int64_t start_ = -1;            // bytes, the most before the first step; -1: there was none yet
  std::vector<std::int64_t> numbers_;  // parts_of(), then machines
  bool tells_memory_ = false;
};

}  // namespace limbeck::launch
