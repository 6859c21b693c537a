// The gradient's global norm, over the parameters of all ranks with each part counted once, and the factor that clips
// it (Pascanu et al., 2013). Gradients are not touched: the factor goes into the optimizer's step, without the host.
//
//     GradientNorm norm(parameters, world, /*clip=*/1.0);
//     adamw.step(rate, norm.factor());
//     norm.start_reading();
//     const GradientNorm::Values& values = norm.values();     // waits for them
//     check(values.not_finite.empty(), "gradient of {} is not finite at step {}", values.not_finite, step);
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/comm.h"
#include "optim/fragment.h"

namespace limbeck::optim {

class GradientNorm {
 public:
  /// Each rank sums the squares of its parts with `first_replica`; one all-reduce over `world`, the ranks that hold the
  /// model, adds them by parameter. Every rank must pass the same names in the same order, and gets bit-equal results.
  /// clip: the largest norm that is let through, 0: any. A parameter without a gradient has a zero one. Throws on a
  /// frozen parameter or a negative clip.
  GradientNorm(const core::ParameterList& parameters, core::Comm& world, double clip)
      : GradientNorm(whole_fragments(parameters), world, clip) {}
  /// Of gradients of which ranks have shares alone, each sums its own; else as above, whatever is dealt. `names`: of
  /// all parameters in one order, where ranks hold different ones (stages of a pipeline); the fragments' are among
  /// them. `memory`: where the parameters of all ranks lie, for one that may have none; null: where the fragments' do.
  GradientNorm(const std::vector<Fragment>& fragments, core::Comm& world, double clip,
               std::vector<std::string> names = {}, core::MemoryPtr memory = nullptr);

  /// min(1, clip / norm), [1] float64 where the parameters are; NaN, by which a step changes nothing, where the norm is
  /// not finite. Undefined, which is 1, without parameters.
  const core::Tensor& factor() const { return factor_; }

  struct Values {
    double norm = 0;
    std::string not_finite;  // the first parameter, by name, whose gradient is not finite on some rank; empty: none is
  };
  /// What is there when this is queued goes on its way to the host; may be asked again.
  void start_reading();
  Values values();  // of what was on its way last; starts it where nothing is

 private:
  std::vector<std::string> names_;
  core::Tensor squares_;  // by parameter
  std::optional<core::HostCopy> copy_;
  core::Tensor factor_;
};

}  // namespace limbeck::optim
