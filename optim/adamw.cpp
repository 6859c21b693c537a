#include "optim/adamw.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/adamw.h"

namespace limbeck::optim {

using core::check;
using core::Shape;
using core::Tensor;

namespace {

/// A tied parameter that is listed twice would be stepped twice.
void check_disjoint(std::vector<Fragment> fragments) {
  std::ranges::sort(fragments, {}, [](const Fragment& f) { return std::pair(f.parameter, f.offset); });
  for (std::size_t i = 1; i < fragments.size(); ++i) {
    const Fragment& a = fragments[i - 1];
    const Fragment& b = fragments[i];
    check(a.parameter != b.parameter || a.offset + a.length <= b.offset,
          "adamw: fragments of {} overlap: {} elements at {} and {} at {}", a.parameter->name, a.length, a.offset,
          b.length, b.offset);
  }
}

}  // namespace

AdamW::AdamW(const std::vector<Fragment>& fragments, const AdamWSettings& settings) : settings_(settings) {
  check(settings.beta1 >= 0 && settings.beta1 < 1, "adamw: beta1 is {}, expected 0 to below 1", settings.beta1);
  check(settings.beta2 >= 0 && settings.beta2 < 1, "adamw: beta2 is {}, expected 0 to below 1", settings.beta2);
  check(settings.eps >= 0, "adamw: eps is {}, expected 0 or more", settings.eps);
  check(settings.weight_decay >= 0, "adamw: weight_decay is {}, expected 0 or more", settings.weight_decay);
  check_disjoint(fragments);
  states_.reserve(fragments.size());
  for (const Fragment& f : fragments) {
    check_trainable("adamw", *f.parameter);
    const Tensor& value = f.parameter->value;
    check(f.offset >= 0 && f.length >= 0 && f.length <= value.numel() && f.offset <= value.numel() - f.length,
          "adamw: fragment of {} is {} elements at {}, expected within the {} of {}", f.parameter->name, f.length,
          f.offset, value.numel(), value.shape());
    const Shape shape = f.is_whole() ? value.shape() : Shape{f.length};
    states_.push_back(
        {f, Tensor::zeros(value.memory(), value.dtype(), shape), Tensor::zeros(value.memory(), value.dtype(), shape)});
  }
}

void AdamW::step(double rate, double grad_scale) {
  for (const State& state : states_) check_trainable("adamw", *state.fragment.parameter);
  ++num_steps_;
  const auto step = static_cast<double>(num_steps_);
  const double correction1 = 1 - std::pow(settings_.beta1, step);
  const double correction2 = 1 - std::pow(settings_.beta2, step);
  for (State& state : states_) {
    core::Parameter& parameter = *state.fragment.parameter;
    const std::int64_t offset = state.fragment.offset;
    core::dispatch_float("adamw", parameter.value.dtype(), [&]<class T>() {
      const kernels::AdamWFactors<T> factors{
          .decay = static_cast<T>(parameter.decays ? 1 - rate * settings_.weight_decay : 1.0),
          .one_minus_beta1 = static_cast<T>(1 - settings_.beta1),
          .beta2 = static_cast<T>(settings_.beta2),
          .one_minus_beta2 = static_cast<T>(1 - settings_.beta2),
          .step_size = static_cast<T>(rate / correction1),
          .inverse_root_correction2 = static_cast<T>(1 / std::sqrt(correction2)),
          .eps = static_cast<T>(settings_.eps),
          .grad_scale = static_cast<T>(grad_scale),
      };
      const T* grad = parameter.slot->has_grad ? parameter.slot->grad.data<T>() + offset : nullptr;
      core::on_device(parameter.value, [&](const auto& device) {
        kernels::adamw(device, factors, grad, parameter.value.mutable_data<T>() + offset, state.mean.mutable_data<T>(),
                       state.mean_square.mutable_data<T>(), state.fragment.length);
      });
    });
  }
}

void AdamW::set_num_steps(std::int64_t num_steps) {
  check(num_steps >= 0, "adamw: step count is {}, expected 0 or more", num_steps);
  num_steps_ = num_steps;
}

core::StateDict AdamW::state_dict() const {
  core::StateDict entries;
  for (const State& state : states_) {
    const core::Parameter& p = *state.fragment.parameter;
    check(state.fragment.is_whole(), "adamw: state of {} is {} elements at {}, expected the whole {} to save it",
          p.name, state.fragment.length, state.fragment.offset, p.value.shape());
    entries["optimizer/" + p.name + "/exp_avg"] = p.entry(state.mean);
    entries["optimizer/" + p.name + "/exp_avg_sq"] = p.entry(state.mean_square);
  }
  return entries;
}

}  // namespace limbeck::optim
