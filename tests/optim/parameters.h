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

/// An optimizer's state as a source that another loads.
class DictReader : public core::StateReader {
 public:
  explicit DictReader(core::StateDict state) : state_(std::move(state)) {
    for (const auto& [name, entry] : state_) tensors_[name] = {entry.global_shape, entry.tensor.dtype()};
  }
  std::string source() const override { return "a state"; }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& /*info*/, core::StateEntry& entry) const override {
    entry.tensor.copy_from(state_.at(name).value().to(entry.tensor.dtype()));
  }

  core::StateDict state_;
  std::map<std::string, core::StateInfo> tensors_;
};

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
