#include "core/finite_watch.h"

#include <utility>

#include "core/state_dict.h"

namespace limbeck::core {
namespace {

bool is_finite(const Tensor& value) {
  if (!value.defined() || value.numel() == 0 || value.storage()->is_empty()) return true;
  if (value.dtype() != DType::F32 && value.dtype() != DType::F64 && value.dtype() != DType::BF16) return true;
  const Tensor here = value.in(value.memory()->host());
  return first_not_finite(here) == here.numel();
}

/// The first of the slots that is of a parameter; null: none is.
const Parameter* parameter_of(const std::vector<SlotPtr>& slots) {
  for (const SlotPtr& slot : slots)
    if (slot && slot->parameter) return slot->parameter;
  return nullptr;
}

std::string name_of(std::string_view op, const Parameter* parameter) {
  return parameter == nullptr ? std::string(op) : fmt::format("{} of {}", op, parameter->name);
}

}  // namespace

void FiniteWatch::begin(std::string pass, std::int64_t order) {
  pass_ = std::move(pass);
  order_ = order;
  last_.clear();
}

void FiniteWatch::find(const std::string& what, std::int64_t place) {
  first_ = Finding{order_, place, fmt::format("{} in {}{}{}", what, pass_, last_.empty() ? "" : ", behind ", last_)};
}

void FiniteWatch::made(const Tensor& value) {
  is_unnamed_ = !first_ && !is_finite(value);
  if (is_unnamed_) find("what an operation gives", num_seen_);
  ++num_seen_;
}

void FiniteWatch::pushed(const Tape::Step& step) {
  const Parameter* parameter = parameter_of(step.weight_slots);
  if (parameter == nullptr) parameter = parameter_of(step.input_slots);
  const std::string name = name_of(step.op, parameter);
  if (std::exchange(is_unnamed_, false)) find(fmt::format("what {} gives", name), first_->place);
  if (parameter != nullptr) last_ = name;
}

void FiniteWatch::ran(std::string_view op, const std::vector<SlotPtr>& slots) {
  is_unnamed_ = false;
  const Parameter* const parameter = parameter_of(slots);
  const std::string name = name_of(op, parameter);
  for (const SlotPtr& slot : slots) {
    if (first_ || !slot || !slot->has_grad || is_finite(slot->grad)) continue;
    find(slot->parameter ? fmt::format("the gradient of {} by {}", slot->parameter->name, op)
                         : fmt::format("the gradient of what {} reads", name),
         num_seen_);
  }
  ++num_seen_;
  if (parameter != nullptr) last_ = name;
}

}  // namespace limbeck::core
