#include "optim/fragment.h"

#include <algorithm>
#include <utility>

#include "core/share.h"

namespace limbeck::optim {
namespace {

struct Box {
  std::vector<std::int64_t> offset;  // in the local value
  core::Shape shape;
};

/// Whole rows behind a prefix of indices: what a range of elements that lie one behind the other can be.
std::optional<Box> box_of(const Fragment& f) {
  const core::Shape& whole = f.parameter->value.shape();
  Box box{std::vector<std::int64_t>(static_cast<std::size_t>(whole.rank()), 0), whole};
  if (f.is_whole()) return box;
  if (f.length == 0) {
    box.shape[0] = 0;
    return box;
  }
  std::int64_t stride = whole.numel(), rest = f.offset;
  for (int d = 0; d < whole.rank(); ++d) {
    stride /= whole[d];
    const std::int64_t first = rest / stride;
    rest %= stride;
    box.offset[static_cast<std::size_t>(d)] = first;
    box.shape[d] = 1;
    if (rest != 0 || f.length % stride != 0) continue;
    box.shape[d] = f.length / stride;
    if (first + box.shape[d] <= whole[d]) return box;
    return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

core::Shape Fragment::shape() const {
  const std::optional<Box> box = box_of(*this);
  return box ? box->shape : core::Shape{length};
}

core::StateEntry Fragment::entry(const core::Tensor& tensor) const {
  const std::optional<Box> box = box_of(*this);
  core::check(box.has_value(), "optimizer: state of {} is {} elements at {}, expected a box of the {} to save it",
              parameter->name, length, offset, parameter->value.shape());
  core::StateEntry entry = parameter->entry(tensor);
  for (std::size_t d = 0; d < entry.offset.size(); ++d) entry.offset[d] += box->offset[d];
  if (sharers.ranks != nullptr) entry.write = sharers.writes;
  return entry;
}

core::Tensor Fragment::value() const {
  if (sharers.value.defined()) return sharers.value.reshape(shape());
  return parameter->value.reshape({parameter->value.numel()}).rows(offset, length).reshape(shape());
}

core::Tensor Fragment::gradient() const {
  const core::Slot& slot = *parameter->slot;
  if (!slot.has_grad) return {};
  if (sharers.gradients) return slot.grad;
  return slot.grad.reshape({slot.grad.numel()}).rows(offset, length);
}

void Fragment::wait_for_kernels() const {
  const core::MemoryPtr& memory = parameter->value.memory();
  if (is_offloaded() && !memory->is_imagined())
    core::HostCopy(core::Tensor::zeros(memory, core::DType::U8, {1})).get<std::uint8_t>();
}

Fragment fragment_of(core::Parameter& parameter, const Sharers& sharers) {
  if (sharers.ranks == nullptr) return {&parameter, 0, parameter.value.numel()};
  const core::Slice share = core::share_of(parameter.value.shape(), sharers.ranks->rank(), sharers.ranks->size());
  return {.parameter = &parameter, .offset = share.first, .length = share.count, .sharers = sharers};
}

std::vector<Fragment> whole_fragments(const core::ParameterList& parameters) {
  std::vector<Fragment> fragments;
  fragments.reserve(parameters.size());
  for (core::Parameter* p : parameters) fragments.push_back(fragment_of(*p, {}));
  return fragments;
}

void check_trainable(std::string_view who, const Fragment& fragment) {
  const core::Parameter& parameter = *fragment.parameter;
  const core::Tensor& value = parameter.value;
  core::check(!parameter.is_frozen(), "{}: parameter {} is frozen, expected a trainable one", who, parameter.name);
  const bool is_narrow = value.dtype() == core::DType::BF16;
  core::check(is_narrow || value.dtype() == core::DType::F32 || value.dtype() == core::DType::F64,
              "{}: parameter {} is {}, expected float32, float64 or bfloat16", who, parameter.name, value.dtype());
  if (!parameter.slot->has_grad) return;
  const core::Tensor& grad = parameter.slot->grad;
  const core::DType expected = is_narrow ? core::DType::F32 : value.dtype();
  const core::Shape shape = fragment.sharers.gradients ? core::Shape{fragment.length} : value.shape();
  core::check(grad.dtype() == expected && grad.numel() == shape.numel(), "{}: gradient of {} is {} {}, expected {} {}",
              who, parameter.name, grad.dtype(), grad.shape(), expected, shape);
}

void check_fragments(std::string_view who, const std::vector<Fragment>& fragments) {
  for (const Fragment& f : fragments) {
    check_trainable(who, f);
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
