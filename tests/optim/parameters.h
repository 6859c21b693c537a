// Trainable parameters for the optimizers' tests.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/parameter.h"

namespace limbeck::testing {

/// A whole parameter with a pinned slot, as a model makes them.
template <class T>
std::unique_ptr<core::Parameter> make_parameter(const core::MemoryPtr& memory, const std::string& name,
                                                const core::Shape& shape, const std::vector<T>& values) {
  auto p = std::make_unique<core::Parameter>();
  p->name = name;
  p->global_shape = shape;
  p->value = core::Tensor::from<T>(memory, shape, values);
  p->slot = std::make_shared<core::Slot>();
  p->slot->parameter = p.get();
  return p;
}

template <class T>
void set_gradient(core::Parameter& p, const std::vector<T>& values) {
  p.slot->grad = core::Tensor::from<T>(p.value.memory(), p.value.shape(), values);
  p.slot->has_grad = true;
}

/// The message that f() throws; empty if it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const core::Error& e) {
    return e.what();
  }
  return {};
}

}  // namespace limbeck::testing
