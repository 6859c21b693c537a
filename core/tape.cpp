#include "core/tape.h"

#include <algorithm>
#include <utility>

#include "kernels/elementwise.h"

namespace limbeck::core {
namespace {

void add_into(Tensor& into, const Tensor& g) {
  check(into.shape().numel() == g.numel() && into.dtype() == g.dtype(), "accumulate: gradient {} {} into {} {}",
        g.dtype(), g.shape(), into.dtype(), into.shape());
  dispatch_activation("accumulate", g.dtype(), [&]<class T>() {
    on_device(g, [&](const auto& device) { kernels::add_to(device, g.data<T>(), into.mutable_data<T>(), g.numel()); });
  });
}

/// Whether they are all of parameters: what an op has made of one (offset, 1 + w) hands its gradient on in a step that
/// comes before.
bool is_waited_for_by_nobody(const std::vector<SlotPtr>& weight_slots) {
  return std::ranges::all_of(weight_slots, [](const SlotPtr& slot) { return !slot || slot->parameter != nullptr; });
}

}  // namespace

GradientTarget open_gradient(const SlotPtr& slot, const Tensor& like) {
  Slot& s = *slot;
  if (!s.grad.defined()) s.grad = empty_like(like);
  check(s.grad.numel() == like.numel() && s.grad.dtype() == like.dtype(), "gradient: slot holds {} {}, expected {} {}",
        s.grad.dtype(), s.grad.shape(), like.dtype(), like.shape());
  if (s.is_pinned() && s.grad.storage()->is_empty()) s.grad.storage()->refill();  // a bucket, until it has been reduced
  if (!s.is_pinned() && !s.grad.is_sole_owner()) s.grad = s.has_grad ? s.grad.clone() : empty_like(like);
  const double beta = s.has_grad ? 1 : 0;
  s.has_grad = true;
  return {s.grad, beta};
}

void accumulate(const SlotPtr& slot, const Tensor& g) {
  if (!slot) return;
  if (!slot->is_pinned() && !slot->has_grad) {
    slot->grad = g;
    slot->has_grad = true;
    return;
  }
  GradientTarget target = open_gradient(slot, g);
  if (target.beta == 0)
    target.tensor.copy_from(g);
  else
    add_into(target.tensor, g);
}

Tensor gradient(const SlotPtr& slot, const Tensor& like) {
  if (!slot->has_grad) {
    slot->grad = zeros_like(like);
    slot->has_grad = true;
  }
  return slot->grad;
}

Var Tape::output(Tensor value, std::initializer_list<const Var*> inputs) const {
  Var result{std::move(value), nullptr};
  if (records())
    for (const Var* input : inputs)
      if (input->slot) {
        result.slot = std::make_shared<Slot>();
        break;
      }
  if (TapeWatch* const seen_by = watch()) seen_by->made(result.value);
  return result;
}

void Tape::push(Step step) {
  if (!records()) return;
  if (TapeWatch* const seen_by = watch()) seen_by->pushed(step);
  if (!parent_) {
    count(step.input_slots);
    count(step.weight_slots);
  }
  if (mode_ == Mode::Record) steps_.push_back(std::move(step));
}

void Tape::count(const std::vector<SlotPtr>& slots) {
  for (const auto& slot : slots)
    if (slot && slot->parameter) ++uses_[slot->parameter];
}

void Tape::add_uses(const std::map<Parameter*, std::int64_t>& uses) {
  if (parent_) return;  // an outer recomputed block has counted them
  for (const auto& [parameter, n] : uses) uses_[parameter] += n;
}

void Tape::finish(const std::vector<SlotPtr>& slots) {
  Tape& counting = root();
  for (const auto& slot : slots) {
    if (!slot || !slot->parameter) continue;
    const auto it = counting.uses_.find(slot->parameter);
    check(it != counting.uses_.end(), "tape: {} finished more uses than it counted", slot->parameter->name);
    if (--it->second > 0) continue;
    counting.uses_.erase(it);
    if (counting.parameter_done_) counting.parameter_done_(*slot->parameter);
  }
}

void Tape::backward(const Var& loss) {
  check(loss.value.numel() == 1, "backward: the loss has shape {}, expected one element", loss.shape());
  check(loss.slot != nullptr, "backward: nothing to differentiate: no gradient flows into the loss");
  dispatch_float("backward", loss.value.dtype(), [&]<class T>() {
    Tensor one = empty_like(loss.value);
    on_device(one, [&](const auto& device) {
      kernels::fill(device, static_cast<const T*>(nullptr), 1.0, one.mutable_data<T>(), 1);
    });
    accumulate(loss.slot, one);
  });
  run();
}

void Tape::run() {
  const bool delay = root().weight_parts_ != WeightParts::AtOnce;
  while (!steps_.empty()) {
    Step step = std::move(steps_.back());
    steps_.pop_back();
    if (step.input_part) step.input_part();
    step.input_part = nullptr;  // frees what it saved
    if (TapeWatch* const seen_by = watch()) seen_by->ran(step.op, step.input_slots);
    finish(step.input_slots);
    if (!step.weight_part) continue;
    if (delay && is_waited_for_by_nobody(step.weight_slots)) {
      root().delayed_.push_back(std::move(step));
    } else {
      run_weight_part(step);
    }
  }
}

void Tape::run_weight_part(Step& step) {
  step.weight_part();
  step.weight_part = nullptr;
  if (TapeWatch* const seen_by = watch()) seen_by->ran(step.op, step.weight_slots);
  finish(step.weight_slots);
}

bool Tape::run_next_weight_part() {
  std::deque<Step>& delayed = root().delayed_;
  if (delayed.empty()) return false;
  Step step = std::move(delayed.front());
  delayed.pop_front();
  run_weight_part(step);
  return true;
}

}  // namespace limbeck::core
