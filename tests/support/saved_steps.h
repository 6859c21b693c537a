// Checkpoints of golden steps, as runs write and read them.
//
//     save(steps, folder.path());                       // folder/step_3
//     go_on_from(folder / "step_3", others);            // under any layout
#pragma once

#include <filesystem>

#include "data/checkpoints/checkpoint.h"
#include "launch/run/saves.h"
#include "tests/support/golden_steps.h"

namespace limbeck::testing {

/// Collective.
inline void save(GoldenSteps& steps, const std::filesystem::path& checkpoints) {
  launch::Saves saves(steps.rank(), [] { return false; });
  saves.begin(
      {.checkpoints = checkpoints, .step = steps.optimizer().num_steps(), .state = steps.state(), .extra = "{}"},
      false);
  saves.finish();
}

/// Collective.
inline void go_on_from(const std::filesystem::path& saved, GoldenSteps& steps) {
  const data::Checkpoint checkpoint(saved);
  steps.load(checkpoint);
  steps.optimizer().set_num_steps(checkpoint.step());
}

}  // namespace limbeck::testing
