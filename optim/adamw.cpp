#include "optim/adamw.h"

#include <cmath>

#include "kernels/adamw.h"

namespace limbeck::optim {

using core::check;
using core::DType;

AdamW::AdamW(const std::vector<Fragment>& fragments, const AdamWSettings& settings) : settings_(settings) {
  check(settings.beta1 >= 0 && settings.beta1 < 1, "adamw: beta1 is {}, expected 0 to below 1", settings.beta1);
  check(settings.beta2 >= 0 && settings.beta2 < 1, "adamw: beta2 is {}, expected 0 to below 1", settings.beta2);
  check(settings.eps >= 0, "adamw: eps is {}, expected 0 or more", settings.eps);
  check(settings.weight_decay >= 0, "adamw: weight_decay is {}, expected 0 or more", settings.weight_decay);
  check_fragments("adamw", fragments);
  numbers_ = StepNumbers(fragments);
  states_.reserve(fragments.size());
  for (const Fragment& f : fragments) {
    const core::Parameter& p = *f.parameter;
    const MasterWeights weights(f);
    const bool is_large =
        settings.eight_bit_from > 0 && p.is_matrix() && p.global_shape.numel() >= settings.eight_bit_from;
    check(!is_large || weights.dtype() == DType::F32, "adamw: moments in 8 bits for {} {}, expected float32 weights",
          weights.dtype(), p.name);
    const auto form = is_large ? Moment::Form::Block8 : Moment::Form::Plain;
    states_.push_back({weights, Moment(f, weights.dtype(), form, kernels::Block8Map::Signed),
                       Moment(f, weights.dtype(), form, kernels::Block8Map::Unsigned)});
  }
}

void AdamW::begin_step(double rate) {
  for (const State& state : states_) check_trainable("adamw", state.weights.fragment());
  ++num_steps_;
  const auto step = static_cast<double>(num_steps_);
  const double correction1 = 1 - std::pow(settings_.beta1, step);
  const double correction2 = 1 - std::pow(settings_.beta2, step);
  for (std::size_t i = 0; i < states_.size(); ++i) {
    const Fragment& fragment = states_[i].weights.fragment();
    const double own_rate = rate * fragment.rate_factor;
    const double weight_decay = fragment.parameter->decays ? fragment.weight_decay.value_or(settings_.weight_decay) : 0;
    core::dispatch_float("adamw", states_[i].weights.dtype(), [&]<class T>() {
      numbers_.set(i, kernels::AdamWFactors<T>{
                          .decay = static_cast<T>(1 - own_rate * weight_decay),
                          .one_minus_beta1 = static_cast<T>(1 - settings_.beta1),
                          .beta2 = static_cast<T>(settings_.beta2),
                          .one_minus_beta2 = static_cast<T>(1 - settings_.beta2),
                          .step_size = static_cast<T>(own_rate / correction1),
                          .inverse_root_correction2 = static_cast<T>(1 / std::sqrt(correction2)),
                          .eps = static_cast<T>(settings_.eps),
                      });
    });
  }
  numbers_.bring();
}

void AdamW::queue_step(const core::Tensor& grad_scale) {
  const double* const scale = grad_scale.defined() ? grad_scale.data<double>() : nullptr;
  for (std::size_t i = 0; i < states_.size(); ++i) {
    State& state = states_[i];
    const Fragment& fragment = state.weights.fragment();
    const core::Tensor gradient = fragment.gradient();
    core::dispatch_float("adamw", state.weights.dtype(), [&]<class T>() {
      const auto* factors = numbers_.at<kernels::AdamWFactors<T>>(i);
      const T* grad = gradient.defined() ? gradient.data<T>() : nullptr;
      core::on_device(fragment.parameter->value, [&](const auto& device) {
        T* weights = state.weights.to_step<T>();
        core::bf16* rounded = state.weights.rounded();
        if constexpr (std::is_same_v<T, float>) {
          if (state.mean.form() == Moment::Form::Block8) {
            const std::vector<Moment::Part> means = state.mean.parts(), squares = state.mean_square.parts();
            for (std::size_t part = 0; part < means.size(); ++part) {
              const std::int64_t offset = means[part].offset;
              kernels::adamw_block8(device, factors, scale, grad != nullptr ? grad + offset : nullptr, weights + offset,
                                    means[part].blocks, squares[part].blocks, means[part].length,
                                    rounded != nullptr ? rounded + offset : nullptr);
            }
            return;
          }
        }
        kernels::adamw(device, factors, scale, grad, weights, state.mean.data<T>(), state.mean_square.data<T>(),
                       fragment.length, rounded);
      });
    });
    state.weights.finish_step();
  }
}

void AdamW::begin_training() {
  for (State& state : states_) state.weights.begin();
}

void AdamW::note_step() {
  for (State& state : states_) state.weights.note_step();
}

void AdamW::set_num_steps(std::int64_t num_steps) {
  check(num_steps >= 0, "adamw: step count is {}, expected 0 or more", num_steps);
  num_steps_ = num_steps;
}

core::StateDict AdamW::state_dict() const {
  core::StateDict entries;
  for (const State& state : states_) {
    state.mean.add_to(entries, "exp_avg");
    state.mean_square.add_to(entries, "exp_avg_sq");
    state.weights.add_to(entries);
  }
  return entries;
}

void AdamW::for_each_kept(const KeptOf& f) const {
  for (const State& state : states_) {
    state.mean.for_each_kept(f);
    state.mean_square.for_each_kept(f);
    state.weights.for_each_kept(f);
  }
}

void AdamW::load(const core::StateReader& reader) {
  for (State& state : states_) {
    state.mean.load(reader, "exp_avg");
    state.mean_square.load(reader, "exp_avg_sq");
    state.weights.load(reader);
  }
}

}  // namespace limbeck::optim
