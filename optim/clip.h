// The gradient's global norm, over the parameters of all ranks with each part counted once, and the factor that clips
// it (Pascanu et al., 2013). Gradients are not touched: the factor goes into the optimizer's step.
//
//     GradientNorm norm = gradient_norm(parameters, world, /*clip=*/1.0);
//     check(norm.not_finite.empty(), "gradient of {} is not finite at step {}", norm.not_finite, step);
//     adamw.step(rate, norm.factor);
#pragma once

#include <string>

#include "core/comm.h"
#include "core/parameter.h"

namespace limbeck::optim {

struct GradientNorm {
  double norm = 0;
  double factor = 1;       // min(1, clip / norm); 1 where the norm is not finite
  std::string not_finite;  // the first parameter, by name, whose gradient is not finite on some rank; empty: none is
};

/// Each rank sums the squares of its parts with `first_replica`; one all-reduce over `world`, the ranks that hold the
/// model, adds them by parameter. Every rank must pass the same names in the same order, and gets bit-equal results.
/// clip: the largest norm that is let through, 0: any. A parameter without a gradient has a zero one. Throws on a
/// frozen parameter or a negative clip.
GradientNorm gradient_norm(const core::ParameterList& parameters, core::Comm& world, double clip);

}  // namespace limbeck::optim
