#include "core/parameter_set.h"

#include <iterator>

#include "core/random.h"
#include "kernels/normal.h"

namespace limbeck::core {

Parameter& ParameterSet::add(const std::string& name, const Shape& global_shape, const Cut& cut, bool decays) {
  Parameter& p = parameters_.emplace_back();
  p.name = name;
  p.global_shape = global_shape;
  p.decays = decays;
  p.is_stack = cut.is_expert;
  p.cut = cut;
  if (options_.place) options_.place(p, cut);
  Shape local = global_shape;
  for (const AxisPlacement& axis : p.placement)
    if (axis.role == AxisRole::Sharded) local[axis.dimension] = axis.length;
  // Vectors are small, and no product widens them.
  const DType dtype = options_.dtype == DType::BF16 && !p.is_matrix() ? DType::F32 : options_.dtype;
  p.value = options_.filled_later || (options_.matrices_are_lent && p.is_matrix())
                ? Tensor(std::make_shared<Storage>(options_.memory, bytes_of(dtype, local.numel()), nullptr, nullptr),
                         0, dtype, local)
                : Tensor::empty(options_.memory, dtype, local);
  if (!options_.frozen) {
    p.slot = std::make_shared<Slot>();
    p.slot->parameter = &p;
  }
  return p;
}

Parameter& ParameterSet::add_frozen(const std::string& name, const Shape& global_shape, const Cut& cut) {
  Parameter& p = add(name, global_shape, cut, false);
  p.slot = nullptr;
  return p;
}

ParameterList ParameterSet::list() {
  ParameterList list;
  for (Parameter& p : parameters_) list.push_back(&p);
  return list;
}

void ParameterSet::forget_gradients() {
  for (const Parameter& p : parameters_)
    if (p.slot) p.slot->has_grad = false;
}

void init_normal(Parameter& p, double deviation, std::uint64_t seed) {
  if (p.value.memory()->is_imagined()) return;  // nothing lies there
  const RandomStream random(seed, 0, p.name);
  const bool is_narrow = p.value.dtype() == DType::BF16;
  const MemoryPtr host = p.value.memory()->host();
  const bool is_apart = is_narrow || host != p.value.memory();
  Tensor values = is_apart ? Tensor::empty(host, is_narrow ? DType::F32 : p.value.dtype(), p.value.shape()) : p.value;
  const std::vector<std::int64_t> rows = global_rows(p);
  dispatch_float("init_normal", values.dtype(), [&]<class T>() {
    on_device(values, [&](const auto& device) {
      kernels::normal_rows(device, random.stream(), deviation, rows.data(), values.mutable_data<T>(), std::ssize(rows),
                           values.shape()[values.shape().rank() - 1]);
    });
  });
  if (is_apart) p.value.copy_from(is_narrow ? values.to(DType::BF16) : values);
}

}  // namespace limbeck::core
