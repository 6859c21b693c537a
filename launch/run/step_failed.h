// What ends a run at a step, on every rank alike.
#pragma once

#include "core/error.h"

namespace limbeck::launch {

/// A loss or a gradient is none, or one step more is refused than may be. Nothing was changed by the step.
class StepFailed : public core::Error {
 public:
  using core::Error::Error;
};

}  // namespace limbeck::launch
