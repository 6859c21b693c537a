#include "launch/run/step_footprint.h"

#include <algorithm>
#include <cmath>

namespace limbeck::launch {

namespace {

std::size_t num_parts() { return parts_of({}).size(); }

}  // namespace

bool is_on_one_machine(const Rank& rank) {
  parallel::WorldComm& world = rank.mesh().world();
  for (int r = 1; r < world.size(); ++r)
    if (world.node_of(r) != world.node_of(0)) return false;
  return true;
}

StepFootprint::StepFootprint(const Rank& rank) : rank_(rank) {
  parallel::WorldComm& world = rank.mesh().world();
  std::vector<int> machines;
  for (int r = 0; r < world.size(); ++r) {
    const auto known = std::ranges::find(machines, world.node_of(r));
    if (r == world.rank()) {
      machine_ = static_cast<std::size_t>(known - machines.begin());
      if (known == machines.end()) meter_.emplace(/*with_gpus=*/!rank.memory()->is_host());
    }
    if (known == machines.end()) machines.push_back(world.node_of(r));
  }
  numbers_.resize(num_parts() + machines.size());
}

void StepFootprint::begin_step() {
  const core::MemoryPtr& memory = rank_.memory();
  if (start_ < 0) start_ = memory->statistics().peak_bytes;
  memory->reset_peak();
  if (meter_) meter_->take();
}

void StepFootprint::end_step(const std::optional<MemoryParts>& parts, std::int64_t copied_bytes) {
  std::ranges::fill(numbers_, -1);
  tells_memory_ = parts.has_value();
  if (parts) {
    const core::MemoryStatistics now = rank_.memory()->statistics();
    MemoryParts memory = *parts;
    memory.copy = rank_.memory()->is_host() ? copied_bytes : 0;  // a GPU's lies in the host's memory
    memory.other = std::max<std::int64_t>(now.used_bytes - memory.kept(), 0);
    memory.activations = now.peak_bytes - now.used_bytes;
    memory.start = start_;
    memory.held = now.system_bytes;
    std::ranges::transform(parts_of(memory), numbers_.begin(), &MemoryPart::bytes);
  }
  if (!meter_) return;
  if (const auto joules = meter_->take()) numbers_[num_parts() + machine_] = std::llround(1e6 * *joules);
}

void StepFootprint::add_to(nlohmann::ordered_json& line) const {
  if (tells_memory_) {
    const std::vector<MemoryPart> parts = parts_of({});
    for (std::size_t i = 0; i < parts.size(); ++i) line["memory_bytes"][parts[i].name] = numbers_[i];
  }
  double joules = 0;
  for (std::size_t i = num_parts(); i < numbers_.size(); ++i) {
    if (numbers_[i] < 0) return;
    joules += 1e-6 * static_cast<double>(numbers_[i]);
  }
  line["joules"] = joules;
}

}  // namespace limbeck::launch
