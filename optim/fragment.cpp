#include "optim/fragment.h"

#include <algorithm>
#include <utility>

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
  const bool is_narrow = value.dtype() == core::DType::BF16;
  core::check(is_narrow || value.dtype() == core::DType::F32 || value.dtype() == core::DType::F64,
              "{}: parameter {} is {}, expected float32, float64 or bfloat16", who, parameter.name, value.dtype());
  if (!parameter.slot->has_grad) return;
  const core::Tensor& grad = parameter.slot->grad;
  const core::DType expected = is_narrow ? core::DType::F32 : value.dtype();
  core::check(grad.dtype() == expected && grad.numel() == value.numel(), "{}: gradient of {} is {} {}, expected {} {}",
              who, parameter.name, grad.dtype(), grad.shape(), expected, value.shape());
}

void check_fragments(std::string_view who, const std::vector<Fragment>& fragments) {
  for (const Fragment& f : fragments) {
    check_trainable(who, *f.parameter);
    const core::Tensor& value = f.parameter->value;
    core::check(f.offset >= 0 && f.length >= 0 && f.length <= value.numel() && f.offset <= value.numel() - f.length,
                "{}: fragment of {} is {} elements at {}, expected within the {} of {}", who, f.parameter->name,
                f.length, f.offset, value.numel(), value.shape());
  }
  std::vector<Fragment> sorted = fragments;
  std::ranges::sort(sorted, {}, [](const Fragment& f) { return std::pair(f.parameter, f.offset); });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    const Fragment& a = sorted[i - 1];
    const Fragment& b = sorted[i];
    core::check(a.parameter != b.parameter || a.offset + a.length <= b.offset,
                "{}: fragments of {} overlap: {} elements at {} and {} at {}", who, a.parameter->name, a.length,
                a.offset, b.length, b.offset);
  }
}

}  // namespace limbeck::optim
