// AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), as torch.optim.AdamW: the decay multiplies a weight
// by 1 - rate * weight_decay, and takes no part in the moments.
//
//     AdamW adamw(whole_fragments(parameters), {.beta2 = 0.95});
//     GradientNorm norm = gradient_norm(parameters, world, /*clip=*/1.0);
//     adamw.step(schedule.rate(adamw.num_steps() + 1), norm.factor());
//     for (auto& [name, entry] : adamw.state_dict()) writer.write(name, entry);   // and num_steps() beside it
#pragma once

#include <cstdint>
#include <vector>

#include "core/state_dict.h"
#include "optim/fragment.h"
#include "optim/master_weights.h"
#include "optim/moment.h"
#include "optim/step_numbers.h"

namespace limbeck::optim {

struct AdamWSettings {
  double beta1 = 0.9;   // decay of the mean of gradients, in [0, 1)
  double beta2 = 0.95;  // decay of the mean of squares, in [0, 1)
  double eps = 1e-8;
  double weight_decay = 0.1;  // on parameters with `decays` alone
  /// Moments in 8 bits (kernels/block8.h) of matrices with this many elements in all or more: 2 bytes an element and
  /// block scales instead of 8. 0: never. Needs float32 or bfloat16 weights.
  std::int64_t eight_bit_from = 0;
};

class AdamW {
 public:
  /// Takes zero moments from each parameter's memory, in the dtype of the weights stepped on (float32 or float64).
  /// Throws on frozen parameters, on fragments that overlap or lie outside their parameter, and on settings out of
  /// range. The parameters must outlive the optimizer.
  AdamW(const std::vector<Fragment>& fragments, const AdamWSettings& settings);

  /// One step with learning rate `rate` (times each fragment's factor), from grad_scale * gradient. A parameter without
  /// a gradient has a zero one. Gradients are left as they are.
  void step(double rate, const core::Tensor& grad_scale = {}) {
    begin_step(rate);
    queue_step(grad_scale);
  }
  /// The same in two: the step's numbers, which go to the device, and the kernels, which read them there.
  void begin_step(double rate);
  void queue_step(const core::Tensor& grad_scale = {});
  /// What queue_step does beside its kernels, where those run again without being queued again.
  void note_step();
  /// Behind the loading of the parameters: what the host rounds is rounded (MasterWeights::begin).
  void begin_training();

  /// Steps taken so far: the bias correction depends on it, so it belongs to a checkpoint.
  std::int64_t num_steps() const { return num_steps_; }
  void set_num_steps(std::int64_t num_steps);

  /// The moments, "optimizer/<name>/exp_avg" and "optimizer/<name>/exp_avg_sq", and of bfloat16 weights the master
  /// weights, "optimizer/<name>/master", all placed as their parameter is; valid while the optimizer is. Throws where a
  /// fragment is no box of the local value.
  core::StateDict state_dict() const;
  /// Reads them; the number of steps is set apart.
  void load(const core::StateReader& reader);
  /// Tells f of all that is kept beside the parameters, in one order.
  void for_each_kept(const KeptOf& f) const;

 private:
  struct State {
    MasterWeights weights;
    Moment mean;
    Moment mean_square;
  };

  AdamWSettings settings_;
  std::vector<State> states_;
  StepNumbers numbers_;  // kernels::AdamWFactors of each
  std::int64_t num_steps_ = 0;
};

}  // namespace limbeck::optim
