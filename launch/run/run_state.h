// What a checkpoint holds of a run's tensors, and a copy of it, so that steps can go on while it is written. The memory
// of the copy is kept for the next one.
//
//     StateCopy copy(rank.host_memory());
//     const core::StateDict& frozen = copy.take(steps.state());      // until the next take()
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/nn/adapters.h"
#include "core/nn/transformer.h"
#include "core/state_dict.h"
#include "launch/config/config.h"
#include "optim/optimizer.h"

namespace limbeck::launch {

/// This rank's part, valid while that of which it is lasts. `student` is null where its weights are another file's,
/// `adapters` where there are none.
core::StateDict state_of(nn::Transformer* student, const std::vector<optim::Fragment>& fragments,
                         nn::Adapters* adapters, const optim::Optimizer& optimizer);

class StateCopy {
 public:
  explicit StateCopy(core::MemoryPtr memory) : memory_(std::move(memory)) {}

  static std::int64_t bytes_of(const core::StateDict& state);
  /// The entries that this rank writes, in the memory. `state` has the same names and shapes each time.
  const core::StateDict& take(const core::StateDict& state);
  /// That it takes now.
  std::int64_t bytes() const { return bytes_of(copy_); }

 private:
  core::MemoryPtr memory_;
  core::StateDict copy_;
};

/// Whether a run saves while its steps go on, and not at its end alone.
bool saves_beside_steps(const TrainConfig& train);

}  // namespace limbeck::launch
