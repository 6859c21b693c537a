#include "optim/fragment.h"

namespace limbeck::optim {

std::vector<Fragment> whole_fragments(const core::ParameterList& parameters) {
  std::vector<Fragment> fragments;
  fragments.reserve(parameters.size());
  for (core::Parameter* p : parameters) fragments.push_back({p, 0, p->value.numel()});
  return fragments;
}

void check_trainable(std::string_view who, const core::Parameter& parameter) {
  const core::Tensor& value = parameter.value;
  core::check(!parameter.is_frozen(), "{}: parameter {} is frozen, expected a trainable one", who, parameter.name);
  core::check(value.dtype() == core::DType::F32 || value.dtype() == core::DType::F64,
              "{}: parameter {} is {}, expected float32 or float64", who, parameter.name, value.dtype());
  if (!parameter.slot->has_grad) return;
  const core::Tensor& grad = parameter.slot->grad;
  core::check(grad.dtype() == value.dtype() && grad.numel() == value.numel(),
              "{}: gradient of {} is {} {}, expected {} {}", who, parameter.name, grad.dtype(), grad.shape(),
              value.dtype(), value.shape());
}

}  // namespace limbeck::optim
